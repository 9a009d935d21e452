"""Whether a step fits into the memory of those that run it, told before any of it is allocated."""

from collections.abc import Sequence

import numpy as np

from d2ft_sched.costs.memory import device_memory
from d2ft_sched.costs.replica_memory import replicas_memory
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.ranks.job import Ranks, ranks_of_host
from runtime.torch_device import memory_bytes


def check_whole_step(
    workload: Workload,
    schedule: np.ndarray,
    ranks: Ranks,
    *,
    num_waves: int = 1,
    recomputes: bool = False,
) -> None:
    """Refuse a step of a model that every rank holds whole.

    Args:
        workload: model, partition and mini-batch, of each rank.
        schedule: int ``[num_subnets, num_microbatches]``.
        ranks: this process among those that run such a step at a time.
        num_waves: groups of micro-batches that pass one after another.
        recomputes: whether lanes run forward again in backward.

    Raises:
        InputError: it needs more memory than there is.
    """
    here = Placement(
        1,
        (0,) * workload.num_subnets,
        (0,) * workload.num_microbatches,
        recomputing=(0,) if recomputes else (),
    )
    needed = device_memory(workload, Replica(here, num_waves), schedule).total[0]
    _check(workload, np.full(ranks.num_ranks, needed), ranks)


def check_step_on_ranks(
    workload: Workload,
    replicas: Sequence[Replica],
    schedule: np.ndarray,
    ranks: Ranks,
    *,
    overlap: bool = False,
) -> None:
    """Refuse a step of which each rank runs its part.

    Args:
        workload: model, partition and mini-batch of all ranks.
        replicas: with ranks for devices.
        schedule: int ``[num_subnets, num_microbatches]``.
        ranks: this process among the others.
        overlap: whether waves overlap.

    Raises:
        InputError: this rank, or on a CPU all of its host together, need more memory than there is.
    """
    needed = replicas_memory(workload, replicas, schedule, overlap=overlap).total
    _check(workload, needed, ranks)


def _check(workload: Workload, needed_bytes: np.ndarray, ranks: Ranks) -> None:
    """Hold the bytes of each rank, float ``[num_ranks]``, against what this one's device has."""
    sharing = range(ranks.rank, ranks.rank + 1)
    if ranks.device.type == "cpu":
        sharing = ranks_of_host(ranks)
    needed, there_are = needed_bytes[list(sharing)].sum(), memory_bytes(ranks.device)
    if needed > there_are:
        whose = (
            "this device"
            if len(sharing) == 1
            else f"the host of these {counted(len(sharing), 'rank')}"
        )
        raise InputError(
            f"{counted(workload.samples.sum(), 'sample')} of {workload.shape.name} take "
            f"{needed / 1e9:.3g} GB "
            f"in a step; {whose} has {there_are / 1e9:.3g} GB of memory: take fewer or smaller "
            f"micro-batches, or smaller samples"
        )
