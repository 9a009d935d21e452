"""Waves: groups of micro-batches that pass through the model one after another."""

import numpy as np


def wave_microbatches(num_microbatches: int, num_waves: int) -> list[np.ndarray]:
    """Indices of the micro-batches of each wave: neighbours, sizes that differ by at most one."""
    return np.array_split(np.arange(num_microbatches), num_waves)
