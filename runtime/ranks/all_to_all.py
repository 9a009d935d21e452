"""Messages between ranks: uneven all-to-all, the ring's all-reduce, and a count of their bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from runtime.lanes.units import Run
from runtime.ranks.job import Pending, Ranks
from runtime.torch_device import backend_of


class Peers(NamedTuple):
    """Ranks that exchange rows with one another.

    Attributes:
        members: sorted.
        group: of them, where the backend's messages are no point-to-point ones; None for all ranks.
    """

    members: tuple[int, ...]
    group: dist.ProcessGroup | None


class ExchangePhase(NamedTuple):
    """Which exchange of a step.

    Attributes:
        direction: "forward" or "backward".
        block: transformer block.
        sublayer: "attention" or "mlp".
        name: "dispatch" or "combine".
    """

    direction: str
    block: int
    sublayer: str
    name: str


@dataclass
class SentBytes:
    """Bytes that this rank handed to collectives, for every rank that they went to.

    Attributes:
        num_ranks: ranks of the job.
        exchanges: by phase, int ``[num_ranks]``.
        all_reduce: of sums of gradients, counted as a ring's, float ``[num_ranks]``.
    """

    num_ranks: int
    exchanges: dict[ExchangePhase, np.ndarray] = field(default_factory=dict)
    all_reduce: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.all_reduce = np.zeros(self.num_ranks)

    def total(self) -> np.ndarray:
        """Of all exchanges to every rank, int ``[num_ranks]``."""
        return sum(self.exchanges.values(), start=np.zeros(self.num_ranks, dtype=np.int64))

    def add_exchange(self, phase: ExchangePhase, sent: np.ndarray) -> None:
        """Add bytes to every rank, int ``[num_ranks]``."""
        self.exchanges[phase] = self.exchanges.get(phase, 0) + sent

    def add_all_reduce(self, rank: int, members: Sequence[int], num_bytes: int) -> None:
        """Add those of a ring over `members`: 2 (n - 1) messages of 1/n to the next one."""
        place, num = members.index(rank), len(members)
        self.all_reduce[members[(place + 1) % num]] += 2 * (num - 1) * num_bytes / num


def start_all_to_all(
    ranks: Ranks,
    peers: Peers,
    receive: Tensor,
    send: Tensor,
    received: Sequence[int],
    sent: Sequence[int],
    phase: ExchangePhase,
    counted: SentBytes | None,
) -> Callable[[], None]:
    """Start an exchange of rows between ranks of a replica; calling the result waits for its end.

    NCCL has a collective for it. With gloo's a rank asks for data after it has begun to send its
    own, so that requests wait behind messages and links idle meanwhile (four ranks took up to 4/3
    of the time that their links need); there every rank first asks for all that it is to receive
    and then sends, message by message, and messages of no bytes do not exist.

    Args:
        ranks: the job.
        peers: ranks that start the same exchanges in the same order.
        receive: ``[sum(received), D]``, contiguous; filled when the wait is over.
        send: ``[sum(sent), D]``, contiguous.
        received: rows from every rank.
        sent: rows to every rank.
        phase: under which the bytes are counted.
        counted: where they are.
    """
    if counted is not None:
        row_bytes = send.shape[1] * send.element_size()
        counted.add_exchange(phase, np.array(sent, dtype=np.int64) * row_bytes)
    what = f"{phase.direction} {phase.sublayer} {phase.name} of block {phase.block}"
    with ranks.watched(what):
        if backend_of(ranks.device) == "gloo":
            works = _start_messages(ranks, peers.members, receive, send, received, sent)
        else:
            from_each, to_each = ([n[m] for m in peers.members] for n in (received, sent))
            works = [
                dist.all_to_all_single(
                    receive, send, from_each, to_each, group=peers.group, async_op=True
                )
            ]
    pending = [Pending(ranks, work, what) for work in works]

    def wait() -> None:
        for one in pending:
            one.wait()

    return wait


def _start_messages(
    ranks: Ranks,
    members: Sequence[int],
    receive: Tensor,
    send: Tensor,
    received: Sequence[int],
    sent: Sequence[int],
) -> list[dist.Work | None]:
    """Ask the ranks below first for what they send, and send first to the ranks above, so that not
    all ranks serve the same one at once."""
    parts, own = send.split(list(sent)), ranks.rank
    places = receive.split(list(received))
    places[own].copy_(parts[own])
    at = members.index(own)
    above = [*members[at + 1 :], *members[:at]]
    below = above[::-1]
    return [
        *(dist.irecv(places[rank], rank) for rank in below if received[rank]),
        *(dist.isend(parts[rank], rank) for rank in above if sent[rank]),
    ]


def gather_runs(x: Tensor, runs: Sequence[Run]) -> Tensor:
    """The runs of rows of ``[T, D]`` one after another: a view if there is one, else a copy."""
    if len(runs) == 1:
        return x[runs[0][0] : runs[0][1]]
    if not runs:
        return x[:0]
    return torch.cat([x[start:stop] for start, stop in runs])


def scatter_runs(rows: Tensor, x: Tensor, runs: Sequence[Run], *, add: bool) -> None:
    """Write rows, or add them, to runs of rows of ``[T, D]``: the inverse of `gather_runs`."""
    offset = 0
    for start, stop in runs:
        piece = rows[offset : offset + stop - start]
        if add:
            x[start:stop] += piece
        else:
            x[start:stop] = piece
        offset += stop - start
