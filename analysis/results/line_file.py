"""A file that grows line by line."""

import os
from pathlib import Path

from d2ft_sched.errors import InputError


class LineFile:
    """A file to which lines are added; each is on its way to disk when `add` returns."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: it cannot be written.
        """
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._refused(error) from None

    def add(self, line: str) -> None:
        """Append a line, without its end.

        Raises:
            InputError: the disk is full, or the like; a part of the line may be in the file.
        """
        rest = memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        os.close(self._file)

    def _refused(self, error: OSError) -> InputError:
        return InputError(f"{self._path}: cannot be written ({error.strerror})")
