"""Which devices compute forward again in backward (gradient checkpointing, arXiv 1604.06174): those
alone whose memory does not hold what backward would need kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.memory import dense_bytes
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.schedule.placement import Placement


def recomputing_where_needed(
    workload: Workload, cluster: Cluster, placement: Placement, num_waves: int = 1
) -> Placement:
    """The placement with forward computed again on devices that hold the dense step in no other
    way."""
    memory = np.array([device.memory_bytes for device in cluster.devices])
    once = replace(placement, recomputing=())
    short = np.flatnonzero(dense_bytes(workload, once, num_waves) > memory).tolist()
    again = replace(placement, recomputing=tuple(short))
    enough = dense_bytes(workload, again, num_waves) <= memory
    return replace(placement, recomputing=tuple(d for d in short if enough[d]))


def keeping_where_possible(
    step: DenseStep, counts: np.ndarray, fits: Callable[[DenseStep], bool]
) -> DenseStep:
    """The step of a layout in which devices with room for it keep all that backward needs, those
    that the layout keeps busiest first.

    Args:
        step: with devices that compute forward again.
        counts: int ``[num_blocks, num_devices, num_sizes]``.
        fits: whether the layout fits the memory of a step's devices.
    """
    busy_s = [step.lanes_s(d, counts[:, d].sum(axis=0)).sum() for d in range(step.num_devices)]
    for d in np.argsort(busy_s)[::-1].tolist():
        rest = tuple(r for r in step.recomputing if r != step.devices[d])
        if rest != step.recomputing:
            tried = DenseStep(step.workload, step.cluster, step.devices, step.num_waves, rest)
            step = tried if fits(tried) else step
    return step
