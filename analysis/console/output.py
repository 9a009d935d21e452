"""Printing: rich tables and lines for people, one JSON object for programs.

Nothing else in d2ft prints. Names are shown as they are, made inert by
`analysis.console.plain_text`.
"""

import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.console.cells import Table as Cells
from analysis.console.formatting import NO_BREAK, quantity
from analysis.console.plain_text import LONGEST_CELL, LONGEST_LINE, one_line
from d2ft_sched.cluster.device import OutOfCalibrationWarning, warn_anew
from d2ft_sched.errors import InputError

console = Console()
messages = Console(stderr=True)
"""Progress and notes, apart from results."""
PIPED_WIDTH = 160
"""Columns of output that is read by no terminal."""

WIDEST_FIGURE = 18
"""Columns of a cell that is no text, such as a change of seconds."""


def print_json(result: dict[str, Any]) -> None:
    """Print strict JSON: infinities and NaN become null."""
    with _to_standard_output():
        print(json.dumps(finite(result), indent=1))


def print_line(text: str) -> None:
    """One line on standard output."""
    with _to_standard_output():
        print(one_line(text))


def print_note(text: str, beside: Console = messages, at_most: int = LONGEST_LINE) -> None:
    """One line on standard error, beside any progress: what is no result."""
    with suppress(OSError):
        beside.print(Text(one_line(text, at_most)), soft_wrap=True)


def print_failure(error: Exception) -> None:
    """Why d2ft ends, on standard error; nothing where that cannot be written either."""
    with suppress(OSError):
        print(f"d2ft: {one_line(error)}", file=sys.stderr)


@contextmanager
def _to_standard_output() -> Iterator[None]:
    """Turns what the system says into one line; a reader that left is for the caller."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output cannot be written ({error.strerror})") from None


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
    """First column left-aligned, the others right-aligned. All texts are shown as they are.

    Where there is no room for a frame the table goes without.
    """
    columns, rows = _cells(columns), [_cells(row) for row in rows]
    if sum(_natural_widths(columns, rows)) + 3 * len(columns) + 1 > console.width:
        print_columns(title, columns, rows)
        return
    table = Table(title=Text(one_line(title)), title_justify="left", title_style="bold")
    _fill(table, columns, rows, [None] * len(columns))
    with _to_standard_output():
        console.print(table)


def print_cells(table: Cells) -> None:
    """As `print_table`, each group by itself, under its title or the table's caption."""
    for title, rows in table.texts:
        print_table(title or table.caption, table.columns, rows)


def print_columns(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As `print_table`, without a frame: for tables with many columns. Where the output is no
    terminal a row is one line.

    Where there is little room headings and texts wrap, figures never do, and columns that find no
    room follow below, beside the first column again.
    """
    columns, rows = _cells(columns), [_cells(row) for row in rows]
    wide = console if console.is_terminal else Console(width=PIPED_WIDTH)
    with _to_standard_output():
        wide.print(Text(one_line(title), style="bold"))
    natural = _natural_widths(columns, rows)
    widths: list[int | None] = [None] * len(columns)
    parts = [range(1, len(columns))]
    if sum(natural) + 2 * len(columns) > wide.width:
        widths = [None, *(_figure_width(i, columns, rows) for i in range(1, len(columns)))]
        first = min(natural[0], wide.width // 3)
        needed = [width or min(natural[i], WIDEST_FIGURE) for i, width in enumerate(widths)]
        parts = _parts([2 + width for width in needed[1:]], wide.width - first - 2)
    for part in parts:
        shown = [0, *part]
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        _fill(
            table,
            [columns[i] for i in shown],
            [[row[i] for i in shown] for row in rows],
            [widths[i] for i in shown],
        )
        with _to_standard_output():
            wide.print(table)
            wide.print()


def _cells(row: Sequence[str]) -> list[str]:
    return [one_line(cell, LONGEST_CELL) for cell in row]


def _parts(widths: Sequence[int], room: int) -> list[range]:
    """Columns, counted from 1, dealt to tables one below the other."""
    starts, used = [1], 0
    for column, width in enumerate(widths, start=1):
        if used and used + width > room:
            starts.append(column)
            used = 0
        used += width
    stops = [*starts[1:], len(widths) + 1]
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _natural_widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of every column where nothing wraps."""
    return [max(cell_len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]


def _figure_width(column: int, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int | None:
    """The least of a column in which no figure wraps; None for a column of texts."""
    parts = [*columns[column].split(), *(row[column] for row in rows)]
    longest = max(map(cell_len, parts), default=1)
    return longest if longest <= WIDEST_FIGURE else None


def _fill(
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int | None],
) -> None:
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(Text(column), justify=justify, width=width)
    for row in rows:
        table.add_row(*map(Text, row))


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
        print_note(f"warning: {line}")
