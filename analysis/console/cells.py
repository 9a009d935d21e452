"""Tables as plain cells, for terminal and report: text to show and value to sort by."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from analysis.console.formatting import quantity


@dataclass(frozen=True)
class Cell:
    """What a cell shows and what it is sorted by."""

    text: str
    value: float | str


@dataclass(frozen=True)
class Table:
    """Columns and groups of rows; a group has a title, or none."""

    caption: str
    columns: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[Cell, ...], ...]], ...]

    @property
    def texts(self) -> list[tuple[str, list[list[str]]]]:
        """Groups by their titles, rows as they are shown."""
        return [
            (title, [[cell.text for cell in row] for row in rows]) for title, rows in self.groups
        ]

    @property
    def text_columns(self) -> tuple[bool, ...]:
        """Whether a column holds words, which stand to the left, or numbers, to the right."""
        rows = [row for _, group in self.groups for row in group]
        return tuple(
            any(isinstance(row[c].value, str) and row[c].value for row in rows)
            for c in range(len(self.columns))
        )


def text_cell(text: str) -> Cell:
    """A cell of words."""
    return Cell(text, text)


def amount_cell(value: float, unit: str) -> Cell:
    """A value with its unit."""
    return Cell(quantity(value, unit), float(value))


def number_cell(value: float | None, show: Callable[[float], str]) -> Cell:
    """A number as it is shown; a dash where there is none, or NaN."""
    if value is None or math.isnan(value):
        return Cell("—", "")
    return Cell(show(value), float(value))
