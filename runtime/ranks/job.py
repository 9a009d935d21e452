"""The ranks of a job: how they find one another, agree, and end together."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.errors import InputError, RankError
from d2ft_sched.files.counted import counted
from runtime.ranks.rank_store import Seat, call_roll, open_store
from runtime.torch_device import backend_of, rank_device

GRACE_S = 3.0
"""How long survivors of a failure wait for the last one of them before they name who is missing."""

GRACE_OF_MANY_S = 10.0
"""How long they wait while several are missing, for some may still compute."""

_JOINED = Event()

STORE_S = 2.0
"""How much longer than that the store's answers may take; it is gone if they take more."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among the ranks of its job.

    Attributes:
        rank: 0 to num_ranks - 1.
        num_ranks: processes of the job; with one nothing is sent.
        device: of this rank.
        timeout_s: how long an exchange may take.
        store: that all ranks can write to; None with one rank.
    """

    rank: int
    num_ranks: int
    device: torch.device
    timeout_s: float = 600.0
    store: dist.Store | None = None

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Turn a collective's failure into one line that names the ranks that do not answer.

        Raises:
            RankError: a rank died, hung, or left.
        """
        try:
            yield
        except RuntimeError as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: RuntimeError) -> RankError:
        silent, speaks = _silent_ranks(self)
        if silent:
            who = _names(silent) if len(silent) == 1 else f"at least one of {_names(silent)}"
            reason = f"{who} ended or did not answer within {self.timeout_s:g} s"
        else:
            reason = f"a message was lost ({_first_line(error)})"
        return RankError(f"{reason} during {what}; the job ends", speaks=speaks)


def is_launched() -> bool:
    """Whether this process is a rank of a job that ``torchrun`` or the like has launched."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def init_ranks(
    device: str = "auto",
    *,
    timeout_s: float = 600.0,
    init_method: str = "env://",
    rank: int = -1,
    num_ranks: int = -1,
) -> Ranks:
    """Join the ranks of this job; without a launcher there is one rank and nothing to join.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; each rank of a host takes a CUDA device of its own.
        timeout_s: how long to wait for the others, here and in every exchange.
        init_method: of `torch.distributed`; by default the launcher's environment.
        rank: of this process, where `init_method` is not the environment.
        num_ranks: of the job, likewise.

    Raises:
        InputError: the device is not there, or the launcher's environment is not whole.
        RankError: not all ranks came in time, one cannot come, or the port is taken.
    """
    timeout = timedelta(seconds=timeout_s)
    if rank < 0:
        if not is_launched():
            return Ranks(0, 1, rank_device(device, 0), timeout_s)
        seat = launched_seat()
        rank, num_ranks = seat.rank, seat.num_ranks
        num_local = _num_local(num_ranks)
        own_device = rank_device(device, _local_rank(rank, num_ranks), num_local)
        store = open_store(seat, timeout_s)
        _JOINED.set()
        call_roll(store, seat, timeout_s)
    else:
        own_device = rank_device(device, rank, 1)
        store, _, _ = next(dist.rendezvous(init_method, rank, num_ranks, timeout=timeout))
        store.set_timeout(timeout)
    try:
        dist.init_process_group(
            backend_of(own_device),
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=num_ranks,
            timeout=timeout,
        )
    except RuntimeError as error:
        raise RankError(
            f"rank {rank} did not find all {counted(num_ranks, 'rank')} within {timeout_s:g} s "
            f"({_first_line(error)})",
            speaks=True,
        ) from error
    failures = dist.PrefixStore("failure", store)
    return Ranks(rank, num_ranks, own_device, timeout_s, failures)


def has_joined() -> bool:
    """Whether this process has met the other ranks of its job."""
    return _JOINED.is_set()


def launched_seat() -> Seat:
    """What the launcher's environment says of this process.

    Raises:
        InputError: it is not whole.
    """
    num_ranks = _launchers("WORLD_SIZE", range(1, 2**31))
    rank = _launchers("RANK", range(num_ranks))
    port = _launchers("MASTER_PORT", range(1, 2**16))
    host = os.environ.get("MASTER_ADDR")
    if not host:
        raise InputError("MASTER_ADDR is not set; it must name the host of rank 0")
    return Seat(rank, num_ranks, host, port, _local_rank(rank, num_ranks) == 0)


def _local_rank(rank: int, num_ranks: int) -> int:
    return _launchers("LOCAL_RANK", range(num_ranks), rank)


def _num_local(num_ranks: int) -> int:
    return _launchers("LOCAL_WORLD_SIZE", range(1, num_ranks + 1), 1)


def ranks_of_host(ranks: Ranks) -> range:
    """Ranks of the job that share this host, as the launcher says; this one where it does not."""
    if not is_launched() or ranks.num_ranks == 1:
        return range(ranks.rank, ranks.rank + 1)
    first = ranks.rank - _local_rank(ranks.rank, ranks.num_ranks)
    return range(first, first + _num_local(ranks.num_ranks))


def _launchers(name: str, allowed: range, default: int | None = None) -> int:
    """A number of the launcher's environment."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or int(text) not in allowed:
        said = "not set" if text is None else repr(text)
        raise InputError(
            f"{name} is {said}; it must be an integer from {allowed[0]} to {allowed[-1]}, as "
            f"torchrun sets it"
        )
    return int(text)


def close_ranks(ranks: Ranks) -> None:
    """Leave the job; the other ranks must have come to their end, too."""
    if ranks.store is not None:
        dist.destroy_process_group()


@contextmanager
def ending_together(ranks: Ranks) -> Iterator[None]:
    """Close the ranks after the block. If this rank has a wrong input that the others have not,
    they leave the telling to it."""
    try:
        yield
    except InputError:
        if ranks.store is not None:
            with suppress(RuntimeError):
                ranks.store.set(f"alive/{ranks.rank}", "1")
                ranks.store.add("said", 1)
        raise
    finally:
        close_ranks(ranks)


def check_agreement(ranks: Ranks, facts: Mapping[str, str], num_devices: int) -> None:
    """Compare what every rank believes before anything is computed.

    Args:
        ranks: all must call this, with the same names of facts.
        facts: texts that must be the same on all ranks, such as "plan file" or "precision".
        num_devices: of the plan.

    Raises:
        InputError: the number of ranks is not that of devices, or ranks differ in a fact; every
            rank says the same.
    """
    if num_devices != ranks.num_ranks:
        raise InputError(
            f"the plan is for {counted(num_devices, 'device')}; this job has "
            f"{counted(ranks.num_ranks, 'rank')}: start "
            f"it with torchrun --nproc-per-node so that there are {num_devices}"
        )
    if ranks.num_ranks == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in facts.values()]
    own = torch.tensor(list(b"".join(digests)), dtype=torch.uint8, device=ranks.device)
    gathered = [torch.empty_like(own) for _ in range(ranks.num_ranks)]
    with ranks.watched("the comparison of plans"):
        dist.all_gather(gathered, own)
    table = torch.stack(gathered).view(ranks.num_ranks, len(digests), -1).cpu()
    for index, name in enumerate(facts):
        others = (table[:, index] != table[0, index]).any(dim=1).nonzero().flatten().tolist()
        if others:
            verb = "has" if len(others) == 1 else "have"
            raise InputError(f"{_names(others)} {verb} another {name} than rank 0")


@dataclass(frozen=True)
class Pending:
    """A collective on its way; None as `work` is one that is over."""

    ranks: Ranks
    work: dist.Work | None
    what: str

    def wait(self) -> None:
        """Until its result is there.

        Raises:
            RankError: another rank died, hung, or left.
        """
        if self.work is not None:
            with self.ranks.watched(self.what):
                self.work.wait()


def job_facts(plan_text: str, model: nn.Module) -> dict[str, str]:
    """What all ranks must agree on: the plan file's text and the model's shapes."""
    shapes = ((name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters())
    return {
        "plan file": plan_text,
        "model": "\n".join(f"{name} {shape} {dtype}" for name, shape, dtype in shapes),
        "version of torch": torch.__version__,
    }


def start_sum(
    ranks: Ranks, value: Tensor, what: str, group: dist.ProcessGroup | None = None
) -> Pending:
    """Start to sum a tensor over all ranks, or those of a group, in place."""
    if ranks.num_ranks == 1:
        return Pending(ranks, None, what)
    with ranks.watched(what):
        return Pending(ranks, dist.all_reduce(value, group=group, async_op=True), what)


def _silent_ranks(ranks: Ranks) -> tuple[list[int], bool]:
    """Those that have not reported a failure of their own within the grace time, and whether this
    rank is to say so: the first that knows, or all where the store is gone with rank 0."""
    if ranks.store is None:
        return [], True
    answers: list[tuple[list[int], bool]] = []
    store = ranks.store
    # a thread, for a store whose host is frozen never answers, whatever its timeout
    asking = Thread(target=lambda: answers.append(_ask(store, ranks)), daemon=True)
    asking.start()
    asking.join(GRACE_OF_MANY_S + STORE_S)
    return answers[0] if answers else ([0], True)


def _ask(store: dist.Store, ranks: Ranks) -> tuple[list[int], bool]:
    silent = [rank for rank in range(ranks.num_ranks) if rank != ranks.rank]
    start = time.monotonic()
    try:
        store.set(f"alive/{ranks.rank}", "1")
        while True:
            silent = [rank for rank in silent if not store.check([f"alive/{rank}"])]
            grace_s = GRACE_S if len(silent) == 1 else GRACE_OF_MANY_S
            if not silent or time.monotonic() > start + grace_s or store.check(["said"]):
                return silent, store.add("said", 1) == 1
            time.sleep(0.05)
    except RuntimeError:
        if 0 in silent:
            return [0], True
        return silent, ranks.rank == 0  # rank 0, which keeps the store, knew and has gone before


def _names(ranks: list[int]) -> str:
    text = ", ".join(str(rank) for rank in ranks)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
