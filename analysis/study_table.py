"""A table of a study on disk, which several processes may add to."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.study_claims import claim
from d2ft_sched.atomic_write import write_text
from d2ft_sched.errors import InputError

_TEXT = {"key": str, "training": str, "note": str}
"""Columns that must not be read as numbers."""


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
        try:
            if self._path.exists():
                records = pd.read_csv(self._path, dtype=_TEXT).to_dict("records")
                self.rows = [{str(k): v for k, v in record.items()} for record in records]
        except (pd.errors.ParserError, pd.errors.EmptyDataError):
            raise InputError(f"{self._path}: is damaged: not a CSV table; move it away") from None

    def put(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Write these rows of one run, in place of any that it had."""
        with claim(self._path.parent, self._path.name, wait=True):  # type: ignore[union-attr]
            self.read()
            self.rows = [row for row in self.rows if row["key"] != key] + rows
            self.rows.sort(key=lambda row: self._order.get(row["key"], -1))
            write_text(self._path, pd.DataFrame(self.rows).to_csv(index=False))
