"""What a way or a plan takes, as the simulator predicts it: the last word after the search."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.deployment import Deployment
from sim.step import simulate_step


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


def price(deployment: Deployment, schedule: np.ndarray) -> Priced:
    """Simulate a schedule on some replicas.

    Args:
        deployment: with the micro-batches as dealt.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    found = simulate_step(deployment, schedule)
    return Priced(
        found.step_s, not found.out_of_memory, found.peak_memory_bytes, found.exchange_bytes
    )
