"""What a file holds is read as the dataclass or model that it must be."""

import datetime
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import parse_json, validate


@dataclass(frozen=True)
class Range:
    start: int
    stops: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.start < 0:
            raise InputError(f"start is {self.start}; it must be 0 or more")


@dataclass(frozen=True)
class Holder:
    name: str
    ranges: tuple[Range, ...] = ()
    last: Range | None = None


class Model(BaseModel):
    holder: Holder


RANGES = st.builds(Range, st.integers(0, 2**70), st.tuples(st.floats(allow_nan=False)))


@given(st.builds(Holder, st.text(), st.tuples(RANGES, RANGES), st.none() | RANGES))
def test_what_is_plain_is_read_back(holder: Holder) -> None:
    assert validate(Holder, asdict(holder)) == holder
    assert validate(Model, {"holder": asdict(holder)}).holder == holder


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "content is 3; it must be a mapping with the fields name, ranges, last"),
        ({}, "name is missing"),
        (
            {"name": datetime.date(2026, 1, 2)} | {"nam": 1},
            "nam is not a known field; did you mean",
        ),
        ({"name": 1}, "name is 1: input should be a valid string"),
        ({"name": "a", "last": 1}, "last is 1; it must be a mapping with the fields start, stops"),
        ({"name": "a", "ranges": [{"start": "1", "stops": []}]}, "ranges[0].start is '1': input"),
        ({"name": "a", "ranges": [{"start": True, "stops": []}]}, "ranges[0].start is True: input"),
        ({"name": "a", "ranges": [{"start": 0, "stop": []}]}, "ranges[0].stops is missing"),
        ({"name": "a", "last": {"start": 0, "stops": [], "x": 0}}, "last.x is not a known field; "),
        ({"name": "a", "last": {"start": -1, "stops": []}}, "start is -1; it must be 0 or more"),
        ({"name": parse_json(r'"\ud800"')}, "content is nested too deeply, or has a text that is"),
        ({"name": LOOP}, "content is nested too deeply"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(content: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(Holder, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
