"""Numbers with units, for people: three digits, SI prefixes, an exponent beyond all prefixes only.

Number and unit are held together by a no-break space.
"""

import math

NO_BREAK = "\N{NO-BREAK SPACE}"
MOST_PLAIN = 1e18
"""From here on a number has an exponent."""

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def si_unit(largest: float, unit: str) -> tuple[float, str]:
    """Factor and prefixed unit that suit values up to `largest`: ``(1e-3, "ms")``.

    Seconds go down to µs and are never prefixed upwards; other units go up to peta and never down.
    """
    prefixes = _SMALL_PREFIXES if unit == "s" else _PREFIXES
    for factor, prefix in prefixes:
        if round(abs(largest) / factor, 3) >= 1:
            return factor, prefix + unit
    return (1.0, unit) if largest == 0 else (prefixes[-1][0], prefixes[-1][1] + unit)


def three_digits(value: float) -> str:
    """Three significant digits, or all digits before the point where there are more.

    Of no finite number ``inf``, ``-inf`` or ``nan``.
    """
    if value == 0:
        return "0"
    if abs(value) >= MOST_PLAIN or not math.isfinite(value):
        return f"{value:.3g}"
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{value:,.{max(0, 2 - exponent)}f}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit, such as 12.3 ms."""
    factor, prefixed = si_unit(value, unit)
    return f"{three_digits(value / factor)}{NO_BREAK}{prefixed}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{_rounded(100 * fraction, digits):.{digits}f}{NO_BREAK}%"


def points(difference: float) -> str:
    """A signed difference of two fractions in percentage points, with the unit."""
    return f"{signed_points(difference)}{NO_BREAK}points"


def points_within(difference: float, half_width: float) -> str:
    """A signed difference of two fractions with what it is uncertain by, in percentage points."""
    return f"{signed_points(difference)} ± {100 * half_width:.1f}{NO_BREAK}points"


def signed_percent(fraction: float) -> str:
    """A signed relative difference."""
    return f"{signed_points(fraction)}{NO_BREAK}%"


def less_or_more(saving: float) -> str:
    """A saving in words: 25.0 % less, or more where it is negative; unchanged where it is 0.0 %."""
    if _rounded(100 * saving, 1) == 0:
        return "unchanged"
    return f"{percent(abs(saving))} {'less' if saving > 0 else 'more'}"


def beside(value: float, other: float) -> str:
    """An amount beside another, in words that say which way: as much, 12.3 % less, 45.6 % more, or
    how many times as much from twice on. A dash where the other is nothing."""
    if not other:
        return "-"
    ratio = value / other
    if _rounded(100 * (ratio - 1), 1) == 0:
        return "as much"
    if ratio >= 2:
        return f"{three_digits(ratio)} times as much"
    return less_or_more(1 - ratio)


def saved(saving: float, what: str) -> str:
    """A saving of something as an answer to what is saved: nothing, where it is not less."""
    if _rounded(100 * saving, 1) == 0:
        return f"nothing: {what} unchanged"
    text = f"{less_or_more(saving)} {what}"
    return text if saving > 0 else f"nothing: {text}"


def signed_points(fraction: float) -> str:
    """A signed number of hundredths, for where the unit is given otherwise."""
    return f"{_rounded(100 * fraction, 1):+.1f}".replace("-", "−")


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


def sentence_start(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
