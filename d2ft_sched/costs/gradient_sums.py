"""Which gradients are summed over which devices in a step, bucket by bucket.

The trunk's are summed over all owners of all replicas, a subnet's over the devices that hold it,
one of each replica, and those that a block shares (adapters' factors, scales of queries' and keys'
norms) over all devices that hold any of its subnets. A subnet that no micro-batch trains is in no
sum; one that some replica trains is summed over all of them, the others adding zeros. With one
replica only trunk and what is shared have several holders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.parameters import trained_shared_parameters, trained_trunk_parameters
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import trains_in_step
from d2ft_sched.schedule.replica import Replica

EMBEDDING = -1
"""As a block of sums; the number of blocks stands for the last norm and the classifier."""


@dataclass(frozen=True, eq=False)
class GradientSum:
    """Gradients that the same devices hold, summed over them once backward of a block is done.

    Attributes:
        block: transformer block; `num_blocks` for the last norm and the classifier, -1 for the
            embedding.
        members: devices, sorted, at least two.
        heads: heads of the block whose weights are in it, int ``[num_heads]``, sorted.
        hidden: hidden units likewise, int ``[num_hidden]``.
        has_trunk: whether what the trunk has of the block is in it: norms, output biases and
            LayerScale, or the embedding, or last norm and classifier.
        has_shared_factors: whether what the heads and hidden units of the block share is: factors
            of adapters, or scales of queries' and keys' norms.
        num_values: of all of it.
    """

    block: int
    members: tuple[int, ...]
    heads: np.ndarray
    hidden: np.ndarray
    has_trunk: bool
    has_shared_factors: bool
    num_values: int


def trained_trunk_values(workload: Workload) -> np.ndarray:
    """`trained_trunk_parameters` by where backward makes them, int ``[num_blocks + 2]``: those of
    every block, then of the last norm and the classifier, then of the embedding, so that it is
    indexed by ``GradientSum.block``."""
    shape = workload.shape
    values = np.zeros(shape.num_blocks + 2, dtype=np.int64)
    if workload.lora is not None:
        values[shape.num_blocks] = trained_trunk_parameters(workload)
        return values
    values[: shape.num_blocks] = shape.block_trunk_parameters
    values[shape.num_blocks] = shape.end_trunk_parameters
    values[EMBEDDING] = trained_trunk_parameters(workload) - values.sum()
    return values


def gradient_sums(
    workload: Workload, replicas: Sequence[Replica], schedule: np.ndarray
) -> tuple[GradientSum, ...]:
    """The sums of a step, in the order in which backward makes them.

    Args:
        workload: model, partition, and what trains.
        replicas: the copies of the model.
        schedule: int ``[num_subnets, num_microbatches]``, of all replicas.
    """
    owners = tuple(sorted({owner for r in replicas for owner in r.placement.owner}))
    holders = np.sort([r.placement.subnet_device for r in replicas], axis=0)
    trains, trunk_values = trains_in_step(schedule), trained_trunk_values(workload).tolist()
    sums: list[GradientSum] = []
    for block in range(workload.shape.num_blocks, EMBEDDING - 1, -1):
        sums.extend(_sums_of_block(workload, owners, holders, trains, block, trunk_values[block]))
    return tuple(sums)


def _sums_of_block(
    workload: Workload,
    owners: tuple[int, ...],
    holders: np.ndarray,
    trains: np.ndarray,
    block: int,
    trunk_values: int,
) -> list[GradientSum]:
    """Args: as of `gradient_sums`; `holders` of every subnet, int ``[num_replicas, num_subnets]``,
    sorted by device; `trunk_values` of the block, see `trained_trunk_values`."""
    subnets_of: dict[tuple[int, ...], list[int]] = {}
    shared_by: tuple[int, ...] = ()
    if 0 <= block < workload.shape.num_blocks:
        held = np.array(workload.partition.of_block(block))
        trained = held[trains[held]]
        for subnet, devices in zip(trained.tolist(), holders[:, trained].T.tolist(), strict=True):
            subnets_of.setdefault(tuple(devices), []).append(subnet)
        if trained.size and trained_shared_parameters(workload):
            shared_by = tuple(np.unique(holders[:, held]).tolist())
    with_trunk = {owners} if trunk_values else set()
    sums = []
    for members in sorted({*subnets_of, *with_trunk} | ({shared_by} if shared_by else set())):
        has_trunk, has_shared_factors = members in with_trunk, members == shared_by
        heads, hidden = _units(workload, subnets_of.get(members, []))
        num_values = _values(workload, len(heads), len(hidden))
        num_values += trunk_values * has_trunk
        num_values += trained_shared_parameters(workload) * has_shared_factors
        if len(members) > 1 and num_values:
            sums.append(
                GradientSum(
                    block, members, heads, hidden, has_trunk, has_shared_factors, num_values
                )
            )
    return sums


def _units(workload: Workload, subnets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Heads and hidden units of subnets, int, sorted."""
    parts = [workload.partition.subnets[s] for s in subnets]
    heads = np.array(sorted(h for part in parts for h in part.heads), dtype=np.int64)
    runs: list[tuple[int, int]] = []
    for start, stop in sorted((part.hidden_start, part.hidden_stop) for part in parts):
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    none = np.zeros(0, dtype=np.int64)
    return heads, np.concatenate([none, *(np.arange(*run) for run in runs)])


def _values(workload: Workload, num_heads: int, num_hidden: int) -> int:
    """Parameters that train of so many heads and hidden units."""
    shape, lora = workload.shape, workload.lora
    if lora is None:
        return num_heads * shape.head_parameters + num_hidden * shape.hidden_unit_parameters
    return num_heads * lora.head_parameters(shape) + num_hidden * lora.hidden_unit_parameters(shape)
