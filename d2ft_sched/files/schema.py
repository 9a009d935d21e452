"""What files hold, as the dataclass or model that it must be: units, one line per error."""

import difflib
import json
import re
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from d2ft_sched.errors import InputError
from d2ft_sched.files.quantity import Dimension, parse_quantity
from d2ft_sched.files.text_file import read_text

SMALLEST, LARGEST = 1e-12, 1e24
"""Of amounts and rates of machines: what is made of them stays within what numbers can say."""


def _quantity(dimension: Dimension, *, zero_allowed: bool = False) -> Callable[[object], float]:
    def read(value: object) -> float:
        number = parse_quantity(value, dimension)
        if number < 0 or (number == 0 and not zero_allowed):
            raise ValueError(f"it must be {'0 or more' if zero_allowed else 'above 0'}")
        if number > LARGEST:
            raise ValueError(f"it must be at most {LARGEST:g} {dimension}")
        if number < SMALLEST and not zero_allowed:
            raise ValueError(f"it must be at least {SMALLEST:g} {dimension}")
        return number

    return read


def _number(value: object) -> object:
    """Text such as 1e9, which YAML takes for a number only where it has a dot, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, BeforeValidator(_number)]
Bytes = Annotated[float, BeforeValidator(_quantity(Dimension.BYTES))]
BytesPerS = Annotated[float, BeforeValidator(_quantity(Dimension.BYTES_PER_S))]
FlopsPerS = Annotated[float, BeforeValidator(_quantity(Dimension.FLOPS_PER_S))]
Seconds = Annotated[float, BeforeValidator(_quantity(Dimension.SECONDS, zero_allowed=True))]
Watts = Annotated[float, BeforeValidator(_quantity(Dimension.WATTS, zero_allowed=True))]


class StrictModel(BaseModel):
    """No unknown fields, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


Kind = TypeVar("Kind")


_adapter = cache(TypeAdapter)


def validate(
    kind: type[Kind],
    content: object,
    where: str = "",
    *,
    strict: bool = True,
    extra: Literal["forbid", "ignore"] = "forbid",
) -> Kind:
    """What a file holds, as a frozen dataclass or a pydantic model.

    Args:
        kind: what it must be.
        content: as read from YAML or JSON; lists stand for tuples, too.
        where: what names of fields start with.
        strict: whether texts that read as numbers are none.
        extra: what becomes of fields that `kind` lacks.

    Raises:
        InputError: one line for the first error: field, value and what would be right.
    """
    try:
        text = to_json(content, inf_nan_mode="constants", bytes_mode="base64", fallback=str)
        adapter: TypeAdapter[Kind] = _adapter(cast(Hashable, kind))
        return adapter.validate_json(text, strict=strict, extra=extra)
    except ValidationError as error:
        raise InputError(_describe(error, where, kind)) from None
    except PydanticSerializationError:
        raise InputError(
            f"{where or 'content'} is nested too deeply, or has a text that is no Unicode"
        ) from None


def _describe(error: ValidationError, where: str, kind: Any) -> str:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    field = where
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f"{'.' if field else ''}{part}"
    if first["type"] == "missing":
        return f"{field} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _kinds_of_fields(_kind_at(kind, first["loc"]))
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"{', '.join(known)} are"
        return f"{field} is not a known field; {hint}"
    shown = f"{field or 'content'} is {_shown(first['input'])}"
    if first["type"] in ("model_type", "dataclass_type"):
        known = _kinds_of_fields(_kind_at(kind, (*first["loc"], "")))
        return f"{shown}; it must be a mapping with the fields {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{shown}: {message[0].lower()}{message[1:]}"


def _kind_at(kind: Any, location: tuple[int | str, ...]) -> Any:
    """The dataclass or model that holds the last part of a location."""
    for part in location[:-1]:
        fields = _kinds_of_fields(kind)
        if part in fields:
            kind = _inner(fields[str(part)]) or kind
    return kind


def _kinds_of_fields(kind: Any) -> dict[str, Any]:
    """Of a dataclass or model, by name."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in fields(kind)}
    return {name: field.annotation for name, field in kind.model_fields.items()}


def _inner(annotation: Any) -> Any:
    """The first dataclass or model that a type is made of."""
    if isinstance(annotation, type) and (
        is_dataclass(annotation) or issubclass(annotation, BaseModel)
    ):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


class _Unambiguous(yaml.SafeLoader):
    """YAML in which nothing is silently another thing than it seems: a key that stands twice, and
    numbers that YAML 1.1 reads in base 8 or 60, are errors."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.tag in _NUMBERS:
            text = str(node.value)
            if _OCTAL.fullmatch(text):
                right = f"a number without leading zeros, or the text in quotes, {text!r}"
                raise _ambiguous(text, "base 8", right, node)
            if _BASE_60.fullmatch(text):
                right = f"a number without colons, or the text in quotes, {text!r}"
                raise _ambiguous(text, "base 60", right, node)
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _ambiguous(text: str, base: str, right: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(
        problem=f"{text} would be read as a number in {base}; write {right}",
        problem_mark=node.start_mark,
    )


def read_yaml(path: Path) -> object:
    """Content of a YAML file.

    Raises:
        InputError: not there, a folder, not YAML, or empty; without the file's name.
    """
    text = read_text(path, "YAML")
    try:
        content = yaml.load(text, Loader=_Unambiguous)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"is not YAML: {problem}{line}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"is not YAML: {_unreadable(error)}") from None
    except (LookupError, AttributeError, TypeError):
        raise InputError("is not YAML: a value is not what its tag says") from None
    if content is None:
        raise InputError("is empty")
    return content


def parse_json(text: str) -> object:
    """Content of a JSON text.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"is damaged: not JSON from line {error.lineno} on") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"is damaged: {_unreadable(error)}") from None


def _unreadable(error: Exception) -> str:
    """Of what the parsers leave to Python: depth, dates that are none, numbers without end."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    message = str(error)
    return f"{message[:1].lower()}{message[1:]}"
