"""A table of a study on disk, which several processes may add to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.studying.study_claims import claim
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.regular_file import check_named

RUNS, CURVES = "runs.csv", "curves.csv"
_TEXT: dict[str, type] = {"key": str, "training": str, "note": str}
"""Columns that must not be read as numbers."""


def load_table(
    path: Path, columns: Sequence[str], dtype: Mapping[str, type] | None = None
) -> pd.DataFrame:
    """A CSV file of a study.

    Raises:
        InputError: there is none, or it is no table with these columns.
    """
    check_named(path)
    try:
        table = pd.read_csv(path, dtype=dtype)
    except FileNotFoundError:
        raise InputError(
            f"{path}: is missing; 'd2ft study STUDY.yaml --out DIR' writes it"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise InputError(f"{path}: is damaged: not a CSV table") from None
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"{path}: is damaged: it has no column {missing[0]!r}")
    return table


class Table:
    """Rows of a CSV file that other processes may add to; every change writes the file anew."""

    def __init__(self, path: Path, order: dict[str, int]) -> None:
        """Read what there is; rows go by the `order` of their keys, those without one first."""
        self._path, self._order = path, order
        self.rows: list[dict[str, Any]] = []
        self.read()

    def read(self) -> None:
        """Take in what others have added.

        Raises:
            InputError: the file is no table.
        """
        if self._path.exists():
            records = load_table(self._path, ["key"], dtype=_TEXT).to_dict("records")
            self.rows = [{str(k): v for k, v in record.items()} for record in records]

    def put(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Write these rows of one run, in place of any that it had."""
        with claim(self._path.parent, self._path.name, wait=True):  # type: ignore[union-attr]
            self.read()
            self.rows = [row for row in self.rows if row["key"] != key] + rows
            self.rows.sort(key=lambda row: self._order.get(row["key"], -1))
            if self.rows:  # without any there are no columns, and what has none is no table
                write_text(self._path, pd.DataFrame(self.rows).to_csv(index=False))
