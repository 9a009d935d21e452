"""What a command's process needs before it starts: streams that take any text, and a folder.

Light, so that help stays instant.
"""

import io
import os
import sys

from analysis.console.plain_text import NARROW
from d2ft_sched.errors import InputError


def prepare_process() -> None:
    """Make the standard streams take what d2ft prints, and pictures go to files only.

    Raises:
        InputError: the working directory is gone.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _nowhere(number))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NARROW)
    os.environ["MPLBACKEND"] = "agg"
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working directory is gone ({error.strerror}); change to one that exists"
        ) from None


def flush_standard_output() -> None:
    """Write what is buffered, while there is still someone to tell.

    Raises:
        InputError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_standard_output()
    except OSError as error:
        _give_up_standard_output()
        raise InputError(f"standard output cannot be written ({error.strerror})") from None


def _give_up_standard_output() -> None:
    """Keep Python from trying again as it ends."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _nowhere(number: int) -> io.TextIOWrapper:
    """A stream in place of a closed one, with its number, so that no other file gets that."""
    stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        os.fstat(number)
    except OSError:
        os.dup2(stream.fileno(), number)
    return stream
