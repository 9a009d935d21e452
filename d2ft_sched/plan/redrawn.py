"""A plan's schedule with what rests drawn anew in every step (after LISA, arXiv 2403.17919)."""

from collections.abc import Callable

import numpy as np

from d2ft_sched.problem.resting import POLICIES
from d2ft_sched.schedule.operations import Operation


def chooses(schedule: np.ndarray) -> bool:
    """Whether a schedule lets something rest, or leaves whole micro-batches out."""
    rests = (schedule == Operation.REST).any()
    return bool(rests or (schedule == Operation.SHORTCUT).all(axis=0).any())


def is_redrawable(schedule: np.ndarray, block: np.ndarray) -> bool:
    """Whether all subnets of a block do the same: train, or rest; and whole micro-batches run or
    are left out.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``.
        block: block of each subnet, int ``[num_subnets]``.
    """
    runs = schedule != Operation.SHORTCUT
    if (runs != runs[0]).any() or (schedule == Operation.FORWARD_ONLY).any():
        return False
    trains, rests = schedule == Operation.FULL, schedule == Operation.REST
    if (trains.any(axis=1) & rests.any(axis=1)).any():
        return False
    return all(len(set(trains[block == b].any(axis=1).tolist())) == 1 for b in np.unique(block))


def redrawn(
    schedule: np.ndarray, block: np.ndarray, step: int, seed: int, policy: str = "drawn"
) -> np.ndarray:
    """The schedule of a step: as many blocks train as in the plan's, others than there.

    Args:
        schedule: the plan's, int8 ``[num_subnets, num_microbatches]``; `is_redrawable`.
        block: block of each subnet, int ``[num_subnets]``.
        step: counted from 0.
        seed: of the training.
        policy: a key of `d2ft_sched.problem.resting.POLICIES`.
    """
    num_blocks = len(np.unique(block))
    return with_trained(
        schedule, block, lambda budget: POLICIES[policy](step, seed, np.ones(num_blocks), budget)
    )


def with_trained(
    schedule: np.ndarray, block: np.ndarray, choose: Callable[[float], np.ndarray]
) -> np.ndarray:
    """A schedule in which as large a part of the blocks trains, others perhaps.

    Args:
        schedule: int8 ``[num_subnets, num_microbatches]``; `is_redrawable`.
        block: block of each subnet, int ``[num_subnets]``.
        choose: from the part to which blocks train, bool ``[num_blocks]``.
    """
    blocks, of_block = np.unique(block, return_inverse=True)
    trains = np.zeros(len(blocks), dtype=bool)
    trains[of_block[(schedule == Operation.FULL).any(axis=1)]] = True
    chosen = choose(trains.sum() / len(blocks))
    operation = np.where(chosen[of_block], Operation.FULL, Operation.REST)[:, None]
    return np.where(schedule == Operation.SHORTCUT, schedule, operation).astype(np.int8)
