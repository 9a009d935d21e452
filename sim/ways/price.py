"""What a way or a plan takes, as the simulator predicts it: the last word after the search."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.replica import Replica
from sim.step import simulate_replicas

MOST_REMEMBERED = 2048


@dataclass(frozen=True, eq=False)
class Priced:
    """A predicted step.

    Attributes:
        step_s: its seconds.
        fits: whether it fits every device's memory.
        peak_memory_bytes: float ``[num_devices]``, to read only.
        exchange_bytes: handed to the network.
    """

    step_s: float
    fits: bool
    peak_memory_bytes: np.ndarray
    exchange_bytes: float


def price(
    workload: Workload, cluster: Cluster, replicas: Sequence[Replica], schedule: np.ndarray
) -> Priced:
    """Simulate a schedule on some replicas, once: searches come back to the same ways.

    Args:
        workload: with the micro-batches as dealt.
        cluster: devices and links.
        replicas: copies of the model.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    if cluster.has_curves:
        return _priced(workload, cluster, replicas, schedule)
    as_bytes = np.ascontiguousarray(schedule, dtype=np.int8).tobytes()
    return _remembered(workload, cluster, tuple(replicas), as_bytes)


@lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(
    workload: Workload, cluster: Cluster, replicas: tuple[Replica, ...], schedule_bytes: bytes
) -> Priced:
    schedule = np.frombuffer(schedule_bytes, dtype=np.int8).reshape(workload.num_subnets, -1)
    return _priced(workload, cluster, replicas, schedule)


def _priced(
    workload: Workload, cluster: Cluster, replicas: Sequence[Replica], schedule: np.ndarray
) -> Priced:
    found = simulate_replicas(workload, cluster, replicas, schedule)
    peak_bytes = found.peak_memory_bytes
    peak_bytes.setflags(write=False)
    return Priced(found.step_s, not found.out_of_memory, peak_bytes, found.exchange_bytes)
