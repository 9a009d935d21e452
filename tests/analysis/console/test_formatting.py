"""Numbers with units."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.console.formatting import (
    beside,
    less_or_more,
    percent,
    points,
    quantity,
    saved,
    si_unit,
    signed_percent,
    three_digits,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (3e-7, "s", "0.300 µs"),
        (1234.0, "s", "1,234 s"),
        (0.99999, "s", "1.00 s"),
        (0.0, "s", "0 s"),
        (1.5e9, "B", "1.50 GB"),
        (999_999.9, "B", "1.00 MB"),
        (12.0, "B", "12.0 B"),
        (4.2e18, "FLOP", "4,200 PFLOP"),
    ],
)
def test_quantities_choose_their_prefix(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit).replace("\N{NO-BREAK SPACE}", " ") == text


@given(st.floats(1e-6, 1e17), st.sampled_from(["s", "B", "FLOP"]))
@settings(deadline=None)
def test_a_quantity_reads_back_within_half_a_digit(value: float, unit: str) -> None:
    number, _, prefixed = quantity(value, unit).partition("\N{NO-BREAK SPACE}")
    factor = si_unit(value, unit)[0]
    assert prefixed == si_unit(value, unit)[1]
    assert "e" not in number
    assert math.isclose(float(number.replace(",", "")) * factor, value, rel_tol=0.0051)


def test_fractions_never_show_a_negative_zero() -> None:
    assert percent(-0.00001) == "0.0\N{NO-BREAK SPACE}%"
    assert points(-0.0001) == "+0.0\N{NO-BREAK SPACE}points"
    assert signed_percent(-0.0712) == "−7.1\N{NO-BREAK SPACE}%"
    assert less_or_more(0.25) == "25.0\N{NO-BREAK SPACE}% less"
    assert less_or_more(-0.03) == "3.0\N{NO-BREAK SPACE}% more"
    assert less_or_more(-0.0001) == "unchanged"


def test_an_amount_beside_another_says_which_way():
    assert beside(2.0, 2.0001) == "as much"
    assert beside(1.5, 2.0) == "25.0\N{NO-BREAK SPACE}% less"
    assert beside(2.5, 2.0) == "25.0\N{NO-BREAK SPACE}% more"
    assert beside(46.4, 2.0) == "23.2 times as much"
    assert beside(0.0, 2.0) == "100.0\N{NO-BREAK SPACE}% less"
    assert beside(1.0, 0.0) == "-"


def test_what_is_saved_is_nothing_where_it_is_not_less():
    assert saved(0.25, "step time") == "25.0\N{NO-BREAK SPACE}% less step time"
    assert saved(-0.024, "step time") == "nothing: 2.4\N{NO-BREAK SPACE}% more step time"
    assert saved(0.0001, "step time") == "nothing: step time unchanged"
    assert three_digits(0.0) == "0"
