"""The three operations of D2FT (arXiv 2504.12471), rest, and their letters in files."""

import sys
from enum import IntEnum

import numpy as np


class Operation(IntEnum):
    """What a subnet does with a micro-batch.

    The integer value is the index on the last axis of every ``value`` and ``cost`` array; REST has
    none, for a subnet rests as a whole: then every FULL of it becomes REST.
    """

    SHORTCUT = 0
    """Neither forward nor backward: the residual carries the sample past the subnet (p_s)."""
    FORWARD_ONLY = 1
    """Forward without backward (p_o)."""
    FULL = 2
    """Forward and backward (p_f)."""
    REST = 3
    """Forward, and backward to the input alone: the gradient passes, the weights are not touched
    (after LISA, arXiv 2403.17919; not in the paper)."""

    @property
    def letter(self) -> str:
        """How schedules are written in files: F, R, O or S."""
        return "SOFR"[self]


if sys.version_info < (3, 12):  # where naming a member is a search that fails, and a call
    for _operation in Operation:
        type.__setattr__(Operation, _operation.name, _operation)

NUM_OPERATIONS = 3
"""Those that a knapsack chooses among: all but REST."""


def runs_backward(operations: np.ndarray) -> np.ndarray:
    """Whether operations have a backward pass: FULL and REST; bool as `operations`."""
    return np.asarray((operations == Operation.FULL) | (operations == Operation.REST))


def trains_in_step(schedule: np.ndarray) -> np.ndarray:
    """Whether any micro-batch trains a subnet, bool ``[num_subnets]``; the others rest."""
    return np.asarray((schedule == Operation.FULL).any(axis=1))
