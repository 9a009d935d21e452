"""Waves: groups of micro-batches that pass through the model one after another."""

import numpy as np

from d2ft_sched.schedule.operations import Operation


def wave_microbatches(num_microbatches: int, num_waves: int) -> list[np.ndarray]:
    """Indices of the micro-batches of each wave: neighbours, sizes that differ by at most one."""
    return np.array_split(np.arange(num_microbatches), num_waves)


def running_microbatches(schedule: np.ndarray) -> np.ndarray:
    """Those that pass a subnet, int, rising; the others are left out of the step whole.

    A model would be trained on noise there: neither its trunk nor their loss is computed, and the
    loss is the mean over the samples of the others. All of them where none passes any.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    runs = (schedule != Operation.SHORTCUT).any(axis=0)
    return np.flatnonzero(runs | ~runs.any())


def running_samples(schedule: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Which samples of the mini-batch are in its loss, bool ``[num_samples]``.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``.
        samples: of each micro-batch, int ``[num_microbatches]``.
    """
    runs = np.zeros(len(samples), dtype=bool)
    runs[running_microbatches(schedule)] = True
    return np.repeat(runs, samples)


def schedule_waves(schedule: np.ndarray, num_waves: int) -> list[np.ndarray]:
    """What runs of each of the `wave_microbatches`, without waves of which nothing does.

    So none holds what it would not in the dense step, and what fits memory there fits here.
    """
    running = running_microbatches(schedule)
    if num_waves == 1:
        return [running]
    runs = np.zeros(schedule.shape[1], dtype=bool)
    runs[running] = True
    waves = (wave[runs[wave]] for wave in wave_microbatches(schedule.shape[1], num_waves))
    return [wave for wave in waves if len(wave)]
