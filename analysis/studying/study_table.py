"""A table of a study on disk, which several processes may add to."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.results.table_file import read_table
from analysis.studying.study_claims import claim
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text

RUNS, CURVES = "runs.csv", "curves.csv"
TEXTS = (
    "key", "cluster", "budget", "method", "training", "note", "device", "created_utc",
    "d2ft_version", "torch_version",
)  # fmt: skip
"""Columns that are no numbers, whatever users call things."""


def load_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file of a study; `columns` that are not of `TEXTS` are numbers.

    Raises:
        InputError: there is none, or it is no table with these columns.
    """
    if not os.path.lexists(path):
        raise InputError(f"{path}: is missing; 'd2ft study STUDY.yaml --out DIR' writes it")
    return read_table(path, columns, "d2ft study", TEXTS)


class Table:
    """Rows of a CSV file that other processes may add to; every change writes the file anew."""

    def __init__(self, path: Path, order: dict[str, int]) -> None:
        """Read what there is; rows go by the `order` of their keys, those without one first."""
        self._path, self._order = path, order
        self.rows: list[dict[str, Any]] = []
        self._file_read: tuple[int, ...] | None = None
        self.read()

    def read(self) -> None:
        """Take in what others have added.

        Raises:
            InputError: the file is no table.
        """
        if self._path.exists():
            there = self._path.stat()
            file = there.st_ino, there.st_mtime_ns, there.st_size
            if file == self._file_read:
                return
            records = load_table(self._path, ["key"]).to_dict("records")
            self.rows = [{str(k): v for k, v in record.items()} for record in records]
            self._file_read = file

    def put(self, key: str, rows: list[dict[str, Any]]) -> None:
        """Write these rows of one run, in place of any that it had."""
        with claim(self._path.parent, self._path.name, wait=True):  # type: ignore[union-attr]
            self.read()
            self.rows = [row for row in self.rows if row["key"] != key] + rows
            self.rows.sort(key=lambda row: self._order.get(row["key"], -1))
            if self.rows:  # without any there are no columns, and what has none is no table
                write_text(self._path, pd.DataFrame(self.rows).to_csv(index=False))
