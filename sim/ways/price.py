"""What a way or a plan takes, as the simulator predicts it: the last word after the search."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from d2ft_sched.deployment import Deployment
from sim.step import simulate_step

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


def price(deployment: Deployment, schedule: np.ndarray) -> Priced:
    """Simulate a schedule on some replicas, once: searches come back to the same ways.

    Args:
        deployment: with the micro-batches as dealt.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    if deployment.cluster.has_curves:
        return _priced(deployment, schedule)
    as_bytes = np.ascontiguousarray(schedule, dtype=np.int8).tobytes()
    return _remembered(deployment, as_bytes)


@lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(deployment: Deployment, schedule_bytes: bytes) -> Priced:
    num_subnets = deployment.workload.num_subnets
    schedule = np.frombuffer(schedule_bytes, dtype=np.int8).reshape(num_subnets, -1)
    return _priced(deployment, schedule)


def _priced(deployment: Deployment, schedule: np.ndarray) -> Priced:
    found = simulate_step(deployment, schedule)
    peak_bytes = found.peak_memory_bytes
    peak_bytes.setflags(write=False)
    return Priced(found.step_s, not found.out_of_memory, peak_bytes, found.exchange_bytes)
