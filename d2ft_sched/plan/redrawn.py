"""A plan's schedule with what rests drawn anew in every step (after LISA, arXiv 2403.17919)."""

from collections.abc import Callable

import numpy as np

from d2ft_sched.problem.resting import POLICIES
from d2ft_sched.schedule.operations import Operation, trains_in_step


def chooses(schedule: np.ndarray) -> bool:
    """Whether a schedule lets something rest, or leaves whole micro-batches out."""
    rests = (schedule == Operation.REST).any()
    return bool(rests or (schedule == Operation.SHORTCUT).all(axis=0).any())


def is_redrawable(schedule: np.ndarray) -> bool:
    """Whether every subnet trains, or rests, in all that runs; and whole micro-batches run or are
    left out.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    runs = schedule != Operation.SHORTCUT
    if (runs != runs[0]).any() or (schedule == Operation.FORWARD_ONLY).any():
        return False
    rests = (schedule == Operation.REST).any(axis=1)
    return not (trains_in_step(schedule) & rests).any()


def resting_units(schedule: np.ndarray, block: np.ndarray) -> np.ndarray:
    """What rests as a whole: blocks, where all subnets of each do the same; else subnets.

    Args:
        schedule: int ``[num_subnets, num_microbatches]``; `is_redrawable`.
        block: block of each subnet, int ``[num_subnets]``.

    Returns:
        The unit of each subnet, from 0, int ``[num_subnets]``.
    """
    trains, (_, of_block) = trains_in_step(schedule), np.unique(block, return_inverse=True)
    trained, held = np.bincount(of_block, trains), np.bincount(of_block)
    is_whole = ((trained == 0) | (trained == held)).all()
    return np.asarray(of_block) if is_whole else np.arange(len(block))


def redrawn(
    schedule: np.ndarray, unit: np.ndarray, step: int, seed: int, policy: str = "drawn"
) -> np.ndarray:
    """The schedule of a step: as many units train as in the plan's, others than there.

    Args:
        schedule: the plan's, int8 ``[num_subnets, num_microbatches]``; `is_redrawable`.
        unit: of each subnet, see `resting_units`.
        step: counted from 0.
        seed: of the training.
        policy: a key of `d2ft_sched.problem.resting.POLICIES`.
    """
    number = int(unit.max()) + 1
    return with_trained(
        schedule, unit, lambda budget: POLICIES[policy](step, seed, np.ones(number), budget)
    )


def with_trained(
    schedule: np.ndarray, unit: np.ndarray, choose: Callable[[float], np.ndarray]
) -> np.ndarray:
    """A schedule in which as large a part of the units trains, others perhaps.

    Args:
        schedule: int8 ``[num_subnets, num_microbatches]``; `is_redrawable`.
        unit: of each subnet, from 0, int ``[num_subnets]``; those of a unit do the same.
        choose: from the part to which units train, bool ``[num_units]``.
    """
    trains = np.zeros(int(unit.max()) + 1, dtype=bool)
    trains[unit[trains_in_step(schedule)]] = True
    chosen = choose(trains.sum() / len(trains))
    operation = np.where(chosen[unit], Operation.FULL, Operation.REST)[:, None]
    return np.where(schedule == Operation.SHORTCUT, schedule, operation).astype(np.int8)
