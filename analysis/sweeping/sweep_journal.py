"""Rows of a sweep as they come, one JSON object a line, so that an interrupted one goes on."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from analysis.console.output import finite
from analysis.results.line_file import LineFile
from analysis.sweeping.sweep_row import JournalRow, read_row
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import parse_json
from d2ft_sched.files.text_file import read_text

FORMAT, VERSION = "d2ft-sweep", 2


class Journal:
    """A file to which rows are added; a line that a kill cut off is dropped.

    Attributes:
        path: of the file.
        rows: by key, those of the file and those added.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there.

        Raises:
            InputError: the file is damaged, or of another kind or version.
        """
        self.path = path
        self.rows = {row["key"]: row for row in self._read()}

    def __enter__(self) -> Self:
        """Open it for writing, whole.

        Raises:
            InputError: it cannot be written.
        """
        header = {"format": FORMAT, "version": VERSION}
        text = [json.dumps(finite(record)) for record in (header, *self.rows.values())]
        write_text(self.path, "\n".join(text) + "\n")
        self._file = LineFile(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what could not be written was said by `add`
            self._file.close()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows at once, each with its "key".

        Raises:
            InputError: they cannot be written, as on a full disk.
        """
        for row in rows:
            self._file.add(json.dumps(finite(row)))
            self.rows[row["key"]] = row

    def _read(self) -> list[dict[str, Any]]:
        if not os.path.lexists(self.path):
            return []
        try:
            text = read_text(self.path)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        whole = text.split("\n")[:-1]
        if not whole:
            return []
        header = self._record(1, whole[0])
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"{self.path}: is not the journal of a sweep of this d2ft (version {VERSION}); "
                f"move it away, or take another --out"
            )
        return [self._row(number, line) for number, line in enumerate(whole[1:], start=2)]

    def _row(self, number: int, line: str) -> dict[str, Any]:
        record = self._record(number, line)
        try:
            return read_row(JournalRow, record)
        except InputError as error:
            raise InputError(f"{self.path}: line {number}: {error}") from None

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = parse_json(line)
        except InputError:
            record = None
        if not isinstance(record, dict):
            raise InputError(
                f"{self.path}: line {number} is damaged; move the file away to begin anew"
            )
        return record
