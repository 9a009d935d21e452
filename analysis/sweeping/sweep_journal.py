"""Rows of a sweep as they come, one JSON object a line, so that an interrupted one goes on."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from analysis.console.output import finite
from analysis.results.line_file import LineFile
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.regular_file import check_named

FORMAT, VERSION = "d2ft-sweep", 1


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
        self._file.close()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows at once, each with its "key".

        Raises:
            InputError: they cannot be written.
        """
        for row in rows:
            self._file.add(json.dumps(finite(row)))
            self.rows[row["key"]] = row

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        check_named(self.path)
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from None
        whole = text.split("\n")[:-1]
        records = [self._record(number, line) for number, line in enumerate(whole, start=1)]
        if not records:
            return []
        header = records[0]
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise InputError(
                f"{self.path}: is not the journal of a sweep of this d2ft (version {VERSION}); "
                f"move it away, or take another --out"
            )
        return records[1:]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict) or (number > 1 and "key" not in record):
            raise InputError(
                f"{self.path}: line {number} is damaged; move the file away to begin anew"
            )
        return record
