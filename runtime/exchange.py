"""Messages between ranks: uneven all-to-all, the ring's all-reduce, and a count of their bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from runtime.lane_slices import Run
from runtime.ranks import Pending, Ranks


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
        all_reduce: of the trunk's gradients, counted as a ring's, float ``[num_ranks]``.
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
    receive: Tensor,
    send: Tensor,
    received: Sequence[int],
    sent: Sequence[int],
    phase: ExchangePhase,
    counted: SentBytes | None,
) -> Callable[[], None]:
    """Start an exchange of rows between all ranks; calling the result waits for its end.

    Gloo has one connection between two ranks, on which a rank asks for data behind the data that it
    sends itself, so that messages that could cross wait for one another (four ranks took 4/3 of
    the time that their links need). There the messages to higher and to lower ranks have groups,
    and so connections, of their own: on each of them data goes one way and requests the other.

    Args:
        ranks: all of which must start the same exchanges in the same order.
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
    received, sent = list(received), list(sent)
    works: tuple[dist.Work | None, ...]
    with ranks.watched(what):
        if ranks.one_way is None:
            works = (dist.all_to_all_single(receive, send, received, sent, async_op=True),)
        else:
            works = _start_one_way(ranks.one_way, ranks.rank, receive, send, received, sent)
    pending = [Pending(ranks, work, what) for work in works]

    def wait() -> None:
        for one in pending:
            one.wait()

    return wait


def _start_one_way(
    groups: tuple[dist.ProcessGroup, dist.ProcessGroup],
    rank: int,
    receive: Tensor,
    send: Tensor,
    received: list[int],
    sent: list[int],
) -> tuple[dist.Work | None, dist.Work | None]:
    up, down = groups
    first, last = sum(sent[:rank]), sum(sent[: rank + 1])
    begin, end = sum(received[:rank]), sum(received[: rank + 1])
    before, behind = [0] * rank, [0] * (len(sent) - rank)
    works = (
        dist.all_to_all_single(
            receive[:begin],
            send[last:],
            received[:rank] + behind,
            [*before, 0, *sent[rank + 1 :]],
            group=up,
            async_op=True,
        ),
        dist.all_to_all_single(
            receive[end:],
            send[:first],
            [*before, 0, *received[rank + 1 :]],
            sent[:rank] + behind,
            group=down,
            async_op=True,
        ),
    )
    receive[begin:end] = send[first:last]
    return works


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
