"""Shares of replicas cut into micro-batches: the replicas of a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica, first_microbatches
from sim.dense.memory_passes import split_evenly
from sim.ways.estimate.load import Load


@dataclass(frozen=True)
class ReplicaLayout:
    """How a replica runs its share.

    Attributes:
        subnet_device: device of every subnet.
        owner: of each micro-batch of a pass.
        pass_samples: samples of its passes, one after another, the larger ones first.
        recomputing: devices that compute forward again in backward, sorted.
    """

    subnet_device: tuple[int, ...]
    owner: tuple[int, ...]
    pass_samples: tuple[int, ...]
    recomputing: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Dealt:
    """A mini-batch dealt to replicas.

    Attributes:
        workload: with the micro-batches of all replicas.
        replicas: copies of the model.
        runs: whether each micro-batch is run; else it is left out, bool ``[num_microbatches]``.
    """

    workload: Workload
    replicas: tuple[Replica, ...]
    runs: np.ndarray


def deal(
    workload: Workload,
    num_devices: int,
    layouts: Sequence[ReplicaLayout],
) -> Dealt:
    """Cut every pass into its owners' micro-batches, of equal size but for one sample.

    Args:
        workload: the model; its own micro-batches do not count.
        num_devices: of the cluster.
        layouts: of every replica.
    """
    replicas: list[Replica] = []
    samples: list[int] = []
    for layout in layouts:
        owners: list[int] = []
        for size in layout.pass_samples:
            own = layout.owner[:size]
            samples.extend(split_evenly(size, len(own)))
            owners.extend(own)
        placement = Placement(num_devices, layout.subnet_device, tuple(owners), layout.recomputing)
        replicas.append(Replica(placement, len(layout.pass_samples)))
    dealt = replace(workload, microbatch_samples=tuple(samples))
    return Dealt(dealt, tuple(replicas), np.ones(len(samples), dtype=bool))


def with_left_out(dealt: Dealt, left_out: Sequence[int]) -> Dealt:
    """The same with samples besides that do not run, as a whole micro-batch of each replica.

    It comes first in its replica, so that waves stay the passes.

    Args:
        dealt: of which everything runs.
        left_out: samples that each replica is dealt and does not run; 0 for none.
    """
    samples = list(dealt.workload.microbatch_samples)
    runs = dealt.runs.tolist()
    replicas = list(dealt.replicas)
    first = first_microbatches(dealt.replicas).tolist()
    for r in reversed(range(len(replicas))):
        if left_out[r]:
            samples.insert(first[r], left_out[r])
            runs.insert(first[r], False)
            placement = replicas[r].placement
            owner = (placement.owner[0], *placement.owner)
            replicas[r] = replace(replicas[r], placement=replace(placement, owner=owner))
    workload = replace(dealt.workload, microbatch_samples=tuple(samples))
    return Dealt(workload, tuple(replicas), np.array(runs))


def load_schedule(dealt: Dealt, load: Load) -> np.ndarray:
    """The schedule of a load, int8 ``[num_subnets, num_microbatches]``: what runs is FULL in
    subnets that train and REST in the others."""
    operation = np.where(load.trains, Operation.FULL, Operation.REST)[:, None]
    return np.where(dealt.runs, operation, Operation.SHORTCUT).astype(np.int8)
