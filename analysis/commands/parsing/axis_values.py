"""Values of an axis as written on the command line: ``0.4,0.6,1`` or ``0.2:1:0.2``."""

import math

from d2ft_sched.errors import InputError

MAX_VALUES = 10_000
_ROUNDING = 1e-9


def numbers(option: str, text: str) -> list[float]:
    """Numbers separated by commas, or ``start:stop:step`` with both ends; each once, in that order.

    Raises:
        InputError: one of them is no finite number, or a range has no step that leads to its end.
    """
    values: list[float] = []
    for part in text.split(","):
        ends = [_number(option, text, number) for number in part.split(":")]
        if len(ends) == 1:
            values += ends
        elif len(ends) == 3:
            values += _range(option, part, *ends)
        else:
            raise InputError(f"{option} is {text!r}; a range must be start:stop:step")
    return list(dict.fromkeys(values))


def counts(option: str, text: str, most: int) -> list[int]:
    """As `numbers`, of whole numbers from 1 to `most`."""
    values = numbers(option, text)
    for value in values:
        if not 1 <= value <= most or value != int(value):
            raise InputError(f"{option} is {text!r}; it must be whole numbers from 1 to {most}")
    return [int(value) for value in values]


def names(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Known names separated by commas, each once.

    Raises:
        InputError: one of them is not known.
    """
    given = [part.strip() for part in text.split(",")]
    for name in given:
        if name not in known:
            raise InputError(f"{option} has {name!r}; it must be of {', '.join(known)}")
    return list(dict.fromkeys(given))


def _number(option: str, text: str, part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{option} is {text!r}; it must be numbers separated by commas, or start:stop:step"
        )
    return value


def _range(option: str, text: str, start: float, stop: float, step: float) -> list[float]:
    if step <= 0 or stop < start:
        raise InputError(
            f"{option} has {text!r}; it must go up from start to stop by a step above 0"
        )
    num = math.floor((stop - start) / step + _ROUNDING) + 1
    if num > MAX_VALUES:
        raise InputError(f"{option} has {text!r}, which is {num} values; at most {MAX_VALUES}")
    return [round(start + i * step, 12) for i in range(num)]
