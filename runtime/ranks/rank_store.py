"""The store through which the ranks of a job meet, and the roll that is called there.

Nobody computes before all have come. Who cannot come says so there, so that nobody waits for it.
"""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread

import torch.distributed as dist

from d2ft_sched.errors import RankError
from d2ft_sched.files.counted import counted
from runtime.ranks.ended_jobs import find_note, leave_note

HERE = "here"
"""What a rank says that takes part; all else is why it does not."""

ANSWER_S = 5.0
"""How long a store that listens may take to answer; another program's port does not answer."""

LINGER_S = 30.0
"""How long the rank that keeps the store stays for others to hear why there is no job."""

_POLL_S, _QUIET_S = 0.05, 0.2


@dataclass(frozen=True)
class Seat:
    """A process among the ranks of a job, and where these meet.

    Attributes:
        rank: 0 to num_ranks - 1.
        num_ranks: of the job.
        host, port: where the job's store is.
        is_first_here: whether it has the lowest rank of its host.
    """

    rank: int
    num_ranks: int
    host: str
    port: int
    is_first_here: bool

    @property
    def keeps_store(self) -> bool:
        """Whether this process does: rank 0, unless the launcher has a store there."""
        by_launcher = (
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            and os.environ.get("MASTER_ADDR") == self.host
            and os.environ.get("MASTER_PORT") == str(self.port)
        )
        return self.rank == 0 and not by_launcher


def open_store(seat: Seat, timeout_s: float) -> dist.Store:
    """The job's store: kept by the launcher or by rank 0, reached by the others.

    Args:
        seat: of this process.
        timeout_s: how long to wait for the store, here and in every question to it.

    Raises:
        RankError: the port belongs to another program, or nobody keeps a store there in time.
    """
    stores: list[dist.Store] = []

    def reach() -> None:
        wait = timedelta(seconds=timeout_s)
        place, is_keeper = (seat.host, seat.port, seat.num_ranks), seat.keeps_store
        with suppress(RuntimeError):
            stores.append(dist.TCPStore(*place, is_keeper, wait, wait_for_workers=False))

    if not seat.keeps_store and not _is_quiet_listener(seat, timeout_s):
        raise _taken(seat)
    # a thread, for a program that is no store may never answer, whatever the timeout
    reaching = Thread(target=reach, daemon=True)
    reaching.start()
    reaching.join(ANSWER_S)
    if not stores:
        raise _taken(seat)
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"d2ft/{start}", stores[0])


def call_roll(store: dist.Store, seat: Seat, timeout_s: float) -> None:
    """Wait until every rank has come.

    Args:
        store: of the job.
        seat: of this process.
        timeout_s: how long to wait.

    Raises:
        RankError: a rank cannot come, in its own words and said by itself; some did not in time; or
            the store is of another job.
    """
    missing, deadline = list(range(seat.num_ranks)), time.monotonic() + timeout_s
    try:
        _come(store, seat, HERE)
        while missing := [r for r in missing if not _has_come(store, seat, r)]:
            _heed_note(seat)
            if time.monotonic() > deadline:
                names = ", ".join(map(str, missing))
                raise RankError(
                    f"{'ranks' if len(missing) > 1 else 'rank'} {names} did not come within "
                    f"{timeout_s:g} s; start all {counted(seat.num_ranks, 'rank')}",
                    speaks=store.add("late", 1) == 1,
                )
            time.sleep(_POLL_S)
    except RankError:
        raise
    except RuntimeError as error:
        _heed_note(seat)
        raise RankError("rank 0, which keeps the ranks' store, has ended", speaks=True) from error


@contextmanager
def refusing(seat: Seat, why: str) -> Iterator[bool]:
    """Tell the other ranks that this one does not come; in the block, say it to the user.

    Yields:
        Whether it is this rank's to say, for no other has said the same.
    """
    speaks, store = True, None
    with suppress(RuntimeError):
        store = open_store(seat, LINGER_S)
        _come(store, seat, why)
        speaks = store.add(f"said/{hashlib.sha256(why.encode()).hexdigest()}", 1) == 1
    try:
        yield speaks
    finally:
        if store is None:
            leave_note(seat.host, seat.port, why)
        else:
            _leave(store, seat, why)


def _come(store: dist.Store, seat: Seat, word: str) -> None:
    if store.add(f"came/{seat.rank}", 1) > 1:
        raise RankError(
            f"port {seat.port} of {seat.host} is that of another job with a rank {seat.rank}; give "
            f"each job a MASTER_PORT of its own (torchrun: --master-port)",
            speaks=seat.is_first_here,
        )
    store.set(f"word/{seat.rank}", word)


def _has_come(store: dist.Store, seat: Seat, rank: int) -> bool:
    """Whether a rank takes part; not yet, or it raises `RankError` if it cannot."""
    if not store.check([f"word/{rank}"]):
        return False
    word = store.get(f"word/{rank}").decode()
    if word != HERE:
        _leave(store, seat, word)
        raise RankError(word, speaks=False)
    return True


def _leave(store: dist.Store, seat: Seat, why: str) -> None:
    """End, but if this rank keeps the store not before all have heard why; who has not finds a
    note."""
    others = [f"left/{r}" for r in range(seat.num_ranks) if r != seat.rank]
    with suppress(RuntimeError):
        store.set(f"left/{seat.rank}", "")
        deadline = time.monotonic() + LINGER_S
        while seat.keeps_store and others and time.monotonic() < deadline:
            others = [key for key in others if not store.check([key])]
            time.sleep(_POLL_S)
    if seat.keeps_store and others:
        leave_note(seat.host, seat.port, why)


def _heed_note(seat: Seat) -> None:
    """Raise `RankError` if another rank has left a note that there is no job."""
    why = find_note(seat.host, seat.port)
    if why is not None:
        raise RankError(why, speaks=False)


def _is_quiet_listener(seat: Seat, timeout_s: float) -> bool:
    """Wait until somebody listens there; whether it waits to be spoken to, as a store does.

    Raises:
        RankError: nobody came, or one who had to refuse has gone again.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(OSError):
            peer = socket.create_connection((seat.host, seat.port), timeout=ANSWER_S)
            with peer:
                return _is_quiet(peer)
        _heed_note(seat)
        if time.monotonic() > deadline:
            raise RankError(
                f"rank {seat.rank} found nobody at {seat.host}:{seat.port} within {timeout_s:g} s; "
                f"MASTER_ADDR and MASTER_PORT must be those of rank 0, which must run",
                speaks=seat.is_first_here,
            )
        time.sleep(_POLL_S)


def _is_quiet(peer: socket.socket) -> bool:
    peer.settimeout(_QUIET_S)
    try:
        peer.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    return False


def _taken(seat: Seat) -> RankError:
    return RankError(
        f"port {seat.port} of {seat.host} is taken by another program; give MASTER_PORT (torchrun: "
        f"--master-port) one that is free",
        speaks=seat.is_first_here,
    )
