"""What a way or a plan takes, as the simulator predicts it: the last word after the search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.replica import Replica
from sim.step import simulate_replicas


@dataclass(frozen=True, eq=False)
class Priced:
    """A predicted step.

    Attributes:
        step_s: its seconds.
        fits: whether it fits every device's memory.
        peak_memory_bytes: float ``[num_devices]``.
        exchange_bytes: handed to the network.
    """

    step_s: float
    fits: bool
    peak_memory_bytes: np.ndarray
    exchange_bytes: float


def price(
    workload: Workload, cluster: Cluster, replicas: Sequence[Replica], schedule: np.ndarray
) -> Priced:
    """Simulate a schedule on some replicas; what it leaves out is not run at all.

    Args:
        workload: with the micro-batches as dealt.
        cluster: devices and links.
        replicas: copies of the model.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    found = simulate_replicas(workload, cluster, replicas, schedule)
    return Priced(
        found.step_s, not found.out_of_memory, found.peak_memory_bytes, found.exchange_bytes
    )
