"""Printing results: rich tables for people, one JSON object for programs."""

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.formatting import NO_BREAK, quantity
from d2ft_sched.device import OutOfCalibrationWarning, warn_anew

console = Console()
messages = Console(stderr=True)
"""Progress and notes, apart from results."""
PIPED_WIDTH = 160
"""Columns of output that is read by no terminal."""


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
    """First column left-aligned, the others right-aligned. All texts are shown as they are."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    _fill(table, columns, rows)
    console.print(table)


def print_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As `print_table`, without a frame: for tables with many columns. Where the output is no
    terminal a row is one line."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    _fill(table, columns, rows)
    wide = console if console.is_terminal else Console(width=PIPED_WIDTH)
    wide.print(f"[bold]{escape(title)}[/bold]", highlight=False)
    wide.print(table)
    wide.print()


def _fill(table: Table, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(escape, row))


def seconds(value: float) -> str:
    """Seconds with a fitting unit, three digits."""
    return quantity(value, "s")


def amount(value: float, unit: str) -> str:
    """A number with an SI prefix, three digits."""
    return quantity(value, unit)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}{NO_BREAK}%"


@contextmanager
def outside_calibration() -> Iterator[list[str]]:
    """A list that has, after the block, what it warned of, once for a device and kind of work:
    work timed beyond what was measured."""
    found: list[str] = []
    warn_anew()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OutOfCalibrationWarning)
        yield found
    for warning in caught:
        if issubclass(warning.category, OutOfCalibrationWarning):
            found.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def print_warnings(lines: Iterable[str]) -> None:
    """One line each, apart from results."""
    for line in lines:
        messages.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)
