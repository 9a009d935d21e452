"""Printing results: rich tables for people, one JSON object for programs."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.formatting import NO_BREAK, quantity

console = Console()
messages = Console(stderr=True)
"""Progress and notes, apart from results."""


def print_json(result: dict[str, Any]) -> None:
    """Print strict JSON: infinities and NaN become null."""
    print(json.dumps(finite(result), indent=1))


def finite(value: Any) -> Any:
    """The value with None in place of every number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """First column left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def seconds(value: float) -> str:
    """Seconds with a fitting unit, three digits."""
    return quantity(value, "s")


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, three digits."""
    return quantity(value, unit)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}{NO_BREAK}%"
