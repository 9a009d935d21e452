"""Files that are whole or not there: written under a temporary name, then renamed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from d2ft_sched.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Where that is a symbolic link, the file that it leads to is written.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    path = Path(path)
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    check_file_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_file_target(path: Path) -> None:
    """Refuse, before the work is done, a file that `write_atomically` could not write.

    Raises:
        InputError: it is a folder, a device or the like, or its folder cannot be made or written
            to.
    """
    path = Path(path)
    if path.is_symlink() and Path(os.path.realpath(path)).is_symlink():
        raise InputError(f"{path}: cannot be written (its symbolic links lead nowhere)")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written (it is a folder)")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: cannot be written (it is not a file)")
    _check_folder(path.parent, path)


def check_folder_target(path: Path) -> None:
    """Refuse, before the work is done, a folder that files could not be written to.

    Raises:
        InputError: it is a file, or cannot be made or written to.
    """
    _check_folder(Path(path), Path(path))


def _check_folder(folder: Path, wanted: Path) -> None:
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise InputError(f"{wanted}: cannot be written ({there} is not a folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{wanted}: cannot be written (no permission to write to {there})")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; what has no place in it, as Python escapes it."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
