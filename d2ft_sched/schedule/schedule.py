"""Schedules: operation tables ``[num_subnets, num_microbatches]`` and their text form."""

from collections.abc import Sequence

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.schedule.operations import Operation

_LETTERS = "".join(op.letter for op in Operation)


def uniform_schedule(num_subnets: int, num_microbatches: int, operation: Operation) -> np.ndarray:
    """A schedule with one operation everywhere, int8 ``[num_subnets, num_microbatches]``."""
    return np.full((num_subnets, num_microbatches), operation, dtype=np.int8)


def check_schedule(schedule: np.ndarray, num_subnets: int, num_microbatches: int) -> np.ndarray:
    """The schedule as int8, or an InputError that names what is wrong with it."""
    schedule = np.asarray(schedule)
    if schedule.shape != (num_subnets, num_microbatches):
        raise InputError(
            f"schedule has shape {list(schedule.shape)}; it must be "
            f"[{num_subnets} subnets, {num_microbatches} micro-batches]"
        )
    wrong = np.argwhere(~np.isin(schedule, list(Operation)))
    if len(wrong):
        s, i = wrong[0]
        raise InputError(f"schedule[{s}, {i}] is {schedule[s, i]}; it must be 0 to 3")
    return schedule.astype(np.int8)


def schedule_to_rows(schedule: np.ndarray) -> list[str]:
    """One string per subnet, one letter (F, R, O, S) per micro-batch."""
    return ["".join(_LETTERS[op] for op in row) for row in schedule]


def schedule_from_rows(rows: Sequence[str]) -> np.ndarray:
    """Inverse of `schedule_to_rows`; int8 ``[num_subnets, num_microbatches]``."""
    for s, row in enumerate(rows):
        if len(row) != len(rows[0]) or set(row) - set(_LETTERS):
            raise InputError(
                f"schedule row {s} is {row!r}; it must be {len(rows[0])} letters of {_LETTERS}"
            )
    return np.array([[_LETTERS.index(c) for c in row] for row in rows], dtype=np.int8)
