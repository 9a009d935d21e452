"""Numbers with units, as people write them in cluster files.

A plain number is in base units (bytes, bytes/s, FLOP/s, seconds, watts). A string may carry a
unit: ``"24 GiB"``, ``"10 Gbit/s"``, ``"12 TFLOP/s"``, ``"50 us"``. Decimal prefixes are powers of
1000, ``Ki``/``Mi``/``Gi``/``Ti`` powers of 1024 (IEC 80000-13). ``Gb/s`` is refused, because some
read it as gigabits and others as gigabytes.
"""

import math
import re
from enum import StrEnum
from fractions import Fraction

_DECIMAL = {prefix: Fraction(1000**i) for i, prefix in enumerate(("", "k", "M", "G", "T", "P"))}
_BINARY = {f"{prefix}i": Fraction(1024**i) for i, prefix in enumerate("KMGTP", start=1)}
_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


class Dimension(StrEnum):
    """What a number measures; the value names its base unit."""

    BYTES = "bytes"
    BYTES_PER_S = "bytes/s"
    FLOPS_PER_S = "FLOP/s"
    SECONDS = "seconds"
    WATTS = "watts"


def _prefixed(unit: str, size: Fraction = Fraction(1), binary: bool = False) -> dict[str, Fraction]:
    prefixes = {**_DECIMAL, **_BINARY} if binary else _DECIMAL
    return {prefix + unit: factor * size for prefix, factor in prefixes.items()}


_UNITS = {
    Dimension.BYTES: _prefixed("B", binary=True),
    Dimension.BYTES_PER_S: {
        **_prefixed("B/s", binary=True),
        **_prefixed("bit/s", Fraction(1, 8)),
        **_prefixed("bps", Fraction(1, 8)),
    },
    Dimension.FLOPS_PER_S: {**_prefixed("FLOP/s"), **_prefixed("FLOPS")},
    Dimension.SECONDS: {
        "s": Fraction(1),
        "ms": Fraction(1, 10**3),
        **dict.fromkeys(("us", "µs", "μs"), Fraction(1, 10**6)),
        "ns": Fraction(1, 10**9),
    },
    Dimension.WATTS: _prefixed("W"),
}
_EXAMPLE = {
    Dimension.BYTES: "'24 GiB'",
    Dimension.BYTES_PER_S: "'10 Gbit/s' or '1.2 GB/s'",
    Dimension.FLOPS_PER_S: "'12 TFLOP/s'",
    Dimension.SECONDS: "'50 us'",
    Dimension.WATTS: "'350 W'",
}


def parse_quantity(value: object, dimension: Dimension) -> float:
    """Read a number in base units, or a string with a unit of `dimension`.

    Raises:
        ValueError: neither, not finite, or a unit of something else; the message starts after the
            value and says what would be right.
    """
    wanted = f"write a number of {dimension} or text like {_EXAMPLE[dimension]}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(wanted)
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise ValueError(wanted)
        number, unit = float(match[1]), match[2]
        if unit:
            size = _unit_size(unit, dimension)
            number = number * size.numerator / size.denominator
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise ValueError("it must be a finite number")
    return number


def _unit_size(unit: str, dimension: Dimension) -> Fraction:
    known = _UNITS[dimension]
    if unit in known:
        return known[unit]
    for other, units in _UNITS.items():
        if unit in units:
            raise ValueError(
                f"{unit!r} is a unit of {other}; {dimension} are wanted, like {_EXAMPLE[dimension]}"
            )
    raise ValueError(f"unknown unit {unit!r}; write {dimension} like {_EXAMPLE[dimension]}")
