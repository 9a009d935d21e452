"""What the schemas of cluster and device files share: fields with units, one line per error."""

import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

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


Model = TypeVar("Model", bound=StrictModel)


def validate(schema: type[Model], content: object, where: str = "") -> Model:
    """Read `content` by `schema`.

    Raises:
        InputError: one line for the first error; field names start with `where`.
    """
    if not isinstance(content, dict):
        raise InputError(
            f"{where or 'content'} is {_shown(content)}; it must be a mapping with the fields "
            f"{', '.join(schema.model_fields)}"
        )
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise InputError(_describe(error, where, schema)) from None


def _describe(error: ValidationError, where: str, schema: type[StrictModel]) -> str:
    first = error.errors()[0]
    field = where
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f"{'.' if field else ''}{part}"
    if first["type"] == "missing":
        return f"{field} is missing"
    if first["type"] == "extra_forbidden":
        known = _schema_at(schema, first["loc"]).model_fields
        close = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"{', '.join(known)} are"
        return f"{field} is not a known field; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{field} is {_shown(first['input'])}: {message[0].lower()}{message[1:]}"


def describe_first_error(error: ValidationError) -> str:
    """One line for the first of pydantic's findings: field, value and what would be right."""
    first = error.errors()[0]
    field = ""
    for part in first["loc"]:
        field += f"[{part}]" if isinstance(part, int) else (f".{part}" if field else str(part))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{field} is missing"
    return f"{field or 'content'} is {_shown(first['input'])}: {message[0].lower()}{message[1:]}"


def _schema_at(schema: type[StrictModel], location: tuple[int | str, ...]) -> type[StrictModel]:
    """The schema that holds the last part of a location."""
    for part in location[:-1]:
        if part in schema.model_fields:
            schema = _inner(schema.model_fields[str(part)].annotation) or schema
    return schema


def _inner(annotation: Any) -> type[StrictModel] | None:
    """The first schema that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
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
