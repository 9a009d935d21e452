"""Numbers with units, for people: three digits, SI prefixes, never an exponent."""

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
    """At least three significant digits, all of them before the point when it is large."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """A value with its unit: ``quantity(0.0123, "s") == "12.3 ms"``."""
    factor, prefixed = si_unit(value, unit)
    return f"{three_digits(value / factor)} {prefixed}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{_rounded(100 * fraction, digits):.{digits}f} %"


def points(difference: float) -> str:
    """A signed difference of two fractions in percentage points."""
    return f"{_rounded(100 * difference, 1):+.1f} points".replace("-", "−")


def signed_percent(fraction: float) -> str:
    """A signed relative difference."""
    return f"{_rounded(100 * fraction, 1):+.1f} %".replace("-", "−")


def less_or_more(saving: float) -> str:
    """A saving in words: ``less_or_more(0.25) == "25.0 % less"``."""
    return f"{percent(abs(saving))} {'less' if _rounded(100 * saving, 1) >= 0 else 'more'}"


def _rounded(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


def sentence_start(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
