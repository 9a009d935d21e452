"""What a way or a plan takes, as the simulator predicts it: the last word after the search."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.plan.plan import replica_parts
from sim.ways.deal import Dealt


@dataclass(frozen=True, eq=False)
class Priced:
    """A predicted step.

    Attributes:
        step_s: its seconds.
        fits: whether it fits every device's memory.
        peak_memory_bytes: float ``[num_devices]``.
    """

    step_s: float
    fits: bool
    peak_memory_bytes: np.ndarray


def price(cluster: Cluster, dealt: Dealt, schedule: np.ndarray, estimate_s: float) -> Priced:
    """Price a schedule on the replicas of a mini-batch; what it leaves out is not run at all.

    Args:
        cluster: devices and links.
        dealt: the mini-batch, dealt to replicas.
        schedule: int ``[num_subnets, num_microbatches]``.
        estimate_s: of the search.
    """
    needed = np.zeros(len(cluster.devices))
    for part in replica_parts(dealt.workload, dealt.replicas, schedule):
        needed += device_memory(part.workload, part.placement, part.schedule, part.num_waves).total
    memory = np.array([device.memory_bytes for device in cluster.devices])
    return Priced(estimate_s, bool((needed <= memory).all()), needed)
