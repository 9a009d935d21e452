"""The whole model's forward pass on partitioned ranks, over samples that are dealt to owners."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.replica_part import ReplicaPart
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_slices import RankWave, rank_waves
from runtime.ranks.wave.rank_wave import RankBatch, WavePass


@dataclass(frozen=True)
class Outputs:
    """Of one rank's samples in one pass.

    Attributes:
        rows: which samples, int64.
        features: what the classifier sees, ``[len(rows), ...]``.
    """

    rows: np.ndarray
    features: Tensor


@torch.no_grad()
def rank_outputs(
    model: RankModel,
    owner_of: np.ndarray,
    read: Callable[[list[np.ndarray]], Iterator[Tensor]],
    key_mask: Tensor | None = None,
    samples_per_pass: int = 64,
) -> Iterator[Outputs]:
    """Every sample through the whole model; the ranks of a replica must exhaust this together.

    Args:
        model: what this rank holds.
        owner_of: an owner of micro-batches for each sample, int ``[num_samples]``; every replica
            runs the samples of its own.
        read: this rank's samples of each pass, in order, as the model takes them, ``[n, ...]``.
        key_mask: which tokens of all samples may be looked at, ``[num_samples, N]``; None for all.
        samples_per_pass: of each owner.

    Yields:
        Outputs of this rank's samples; nothing on a rank that owns none.
    """
    ranks, replica = model.ranks, model.replica
    if replica is None:
        return
    owners = replica.placement.owners
    rows_of = [np.flatnonzero(owner_of == owner) for owner in owners]
    own_rows = np.flatnonzero(owner_of == ranks.rank)
    prepared: dict[tuple[int, ...], RankWave] = {}
    starts = range(0, max(map(len, rows_of)), samples_per_pass)
    own_passes = [own_rows[start : start + samples_per_pass] for start in starts]
    for start, rows, inputs in zip(starts, own_passes, read(own_passes), strict=True):
        parts = [rows[start : start + samples_per_pass] for rows in rows_of]
        sizes = tuple(map(len, parts))
        if sizes not in prepared:
            prepared[sizes] = _forward_wave(model, replica.placement, sizes)
        labels = torch.zeros(len(rows), dtype=torch.int64, device=ranks.device)
        mask = None if key_mask is None else key_mask[torch.from_numpy(np.concatenate(parts))]
        batch = RankBatch(inputs, labels, labels.new_ones(()), mask)
        one = WavePass(model, prepared[sizes], batch, None, None, None)
        for _ in one.forward():
            pass
        if len(rows):
            yield Outputs(rows, one.features)


def _forward_wave(model: RankModel, place: Placement, sizes: tuple[int, ...]) -> RankWave:
    """One micro-batch for each owner that has samples, all operations forward only."""
    used = [(owner, n) for owner, n in zip(place.owners, sizes, strict=True) if n]
    workload = replace(model.workload, microbatch_samples=tuple(n for _, n in used))
    placement = replace(place, owner=tuple(owner for owner, _ in used))
    forward_only = uniform_schedule(workload.num_subnets, len(used), Operation.FORWARD_ONLY)
    part = ReplicaPart(workload, Replica(placement), forward_only, slice(0, len(used)))
    (wave,) = rank_waves(part, model.ranks.rank)
    return wave
