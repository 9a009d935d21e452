"""How a command ends that cannot go on: one line, an exit code, and word to the other ranks."""

import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from d2ft_sched.errors import InputError, RankError

COMMANDS_ON_RANKS = ("finetune", "validate", "profile")


@contextmanager
def one_line_endings() -> Iterator[None]:
    """Within it a wrong input ends the process with one line and exit code 2; a job whose ranks
    cannot go on with exit code 1, and one of them says why."""
    try:
        with _names_of_files():
            yield
    except InputError as error:
        with _telling_other_ranks(str(error)) as speaks:
            _say(error, speaks)
        sys.exit(2)
    except RankError as error:
        _say(error, error.speaks)
        sys.exit(1)


@contextmanager
def _names_of_files() -> Iterator[None]:
    """What the system is asked for may be longer than the name of a file."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(f"{error.filename}: is longer than the name of a file may be") from None


def _say(error: InputError | RankError, speaks: bool) -> None:
    """In one line to the user, and to torchrun, whose report of what failed ends with it."""
    if speaks:
        from analysis.console.output import print_failure

        print_failure(error)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report:
        content = {"message": f"d2ft: {error}", "timestamp": int(time.time())}
        with suppress(OSError):
            Path(report).write_text(json.dumps(content), encoding="utf-8")


def _telling_other_ranks(why: str) -> AbstractContextManager[bool]:
    """Where this process is a rank that has not met the others, they hear that it does not come;
    gives whether it is this rank's to say why."""
    is_rank = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not is_rank or not set(sys.argv[1:2]) & set(COMMANDS_ON_RANKS):
        return nullcontext(True)
    from runtime.ranks.job import has_joined, launched_seat
    from runtime.ranks.rank_store import refusing

    try:
        return nullcontext(True) if has_joined() else refusing(launched_seat(), why)
    except InputError:
        return nullcontext(True)
