"""Which devices compute forward again in backward (gradient checkpointing, arXiv 1604.06174): those
alone whose memory does not hold what backward would need kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from d2ft_sched.costs.memory import dense_bytes
from d2ft_sched.deployment import Deployment
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.schedule.replica import Replica


def recomputing_where_needed(deployment: Deployment) -> Deployment:
    """The replica with forward computed again on devices that hold the dense step in no other
    way."""
    workload, replica = deployment.workload, deployment.replica
    memory = np.array([device.memory_bytes for device in deployment.cluster.devices])

    def computing_again(devices: tuple[int, ...]) -> Replica:
        return replace(replica, placement=replace(replica.placement, recomputing=devices))

    short = np.flatnonzero(dense_bytes(workload, computing_again(())) > memory).tolist()
    enough = dense_bytes(workload, computing_again(tuple(short))) <= memory
    chosen = tuple(d for d in short if enough[d])
    return replace(deployment, replicas=(computing_again(chosen),))


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
