"""The ranks of a job: how they find one another, agree, and end together."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.errors import InputError, RankError
from runtime.device import backend_of, rank_device

GRACE_S = 3.0
"""How long survivors of a failure wait for the last one of them before they name who is missing."""

GRACE_OF_MANY_S = 10.0
"""How long they wait while several are missing, for some may still compute."""


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
        missing = _silent_ranks(self)
        alive = set(range(self.num_ranks)) - set(missing)
        if missing:
            reason = f"{_names(missing)} ended or did not answer within {self.timeout_s:g} s"
        else:
            reason = f"a message was lost ({_first_line(error)})"
        return RankError(
            f"{reason} during {what}; the job ends",
            speaks=self.rank == min(alive, default=self.rank),
        )


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
        InputError: the device is not there.
        RankError: not all ranks came in time.
    """
    if rank < 0 and not is_launched():
        return Ranks(0, 1, rank_device(device, 0), timeout_s)
    rank = int(os.environ["RANK"]) if rank < 0 else rank
    num_ranks = int(os.environ["WORLD_SIZE"]) if num_ranks < 0 else num_ranks
    own_device = rank_device(device, int(os.environ.get("LOCAL_RANK", rank)))
    timeout = timedelta(seconds=timeout_s)
    try:
        store, rank, num_ranks = next(
            dist.rendezvous(init_method, rank, num_ranks, timeout=timeout)
        )
        store.set_timeout(timeout)
        dist.init_process_group(
            backend_of(own_device),
            store=dist.PrefixStore("d2ft/group", store),
            rank=rank,
            world_size=num_ranks,
            timeout=timeout,
        )
    except RuntimeError as error:
        raise RankError(
            f"rank {rank} did not find all {num_ranks} ranks within {timeout_s:g} s "
            f"({_first_line(error)})",
            speaks=True,
        ) from error
    failures = dist.PrefixStore("d2ft/failure", store)
    return Ranks(rank, num_ranks, own_device, timeout_s, failures)


def close_ranks(ranks: Ranks) -> None:
    """Leave the job; the other ranks must have come to their end, too."""
    if ranks.num_ranks > 1:
        dist.destroy_process_group()


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
            f"the plan is for {num_devices} devices; this job has {ranks.num_ranks} ranks: start "
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


def _silent_ranks(ranks: Ranks) -> list[int]:
    """Those that have not reported a failure of their own within the grace time."""
    if ranks.store is None:
        return []
    keys = [f"alive/{rank}" for rank in range(ranks.num_ranks)]
    try:
        ranks.store.set(keys[ranks.rank], "1")
        start = time.monotonic()
        silent = list(range(ranks.num_ranks))
        while silent:
            grace_s = GRACE_S if len(silent) == 1 else GRACE_OF_MANY_S
            if time.monotonic() > start + grace_s:
                break
            time.sleep(0.05)
            silent = [rank for rank in silent if not ranks.store.check([keys[rank]])]
        return silent
    except RuntimeError:
        return [0]


def _names(ranks: list[int]) -> str:
    text = ", ".join(str(rank) for rank in ranks)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
