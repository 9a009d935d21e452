"""Micro-batches that pass no subnet of a block: a model is trained on noise there."""

import numpy as np

from d2ft_sched.files.counted import counted
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.waves import running_microbatches


def starved_microbatches(schedule: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Micro-batches that run, with a block of which no subnet runs them, int ``[num_starved]``.

    Those that pass no subnet at all are left out of the step, and not among them.

    Args:
        schedule: operations, int ``[num_subnets, num_microbatches]``.
        block: block of each subnet, int ``[num_subnets]``.
    """
    active = np.zeros((int(block.max()) + 1, schedule.shape[1]), dtype=np.int64)
    np.add.at(active, block, schedule != Operation.SHORTCUT)
    present = np.bincount(block) > 0
    running = running_microbatches(schedule)
    return running[(active[present][:, running] == 0).any(axis=0)]


def starved_text(schedule: np.ndarray, block: np.ndarray) -> str:
    """One line for people; "" where every micro-batch passes every block."""
    starved = starved_microbatches(schedule, block)
    if not len(starved):
        return ""
    return (
        f"{len(starved)} of {counted(schedule.shape[1], 'micro-batch')} pass no subnet of "
        f"some block (the first is {starved[0]}): there the model trains on noise"
    )
