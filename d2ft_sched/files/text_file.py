"""Reading text files that people or other programs wrote."""

from pathlib import Path

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_regular


def read_text(path: Path, kind: str = "text") -> str:
    """Content of a UTF-8 file, without the byte-order mark that some editors put in front.

    Args:
        path: of the file.
        kind: what it must be, for people: "a plan file".

    Raises:
        InputError: not there, no file, or not UTF-8; without the file's name.
    """
    path = Path(path)
    try:
        check_regular(path)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"is not {kind} (not UTF-8 text)") from None
    except UnicodeEncodeError:
        raise InputError("cannot be read (this system's encoding has no such name)") from None
    except InputError:
        raise
    except ValueError:
        raise InputError("cannot be read (its name holds a null byte)") from None
