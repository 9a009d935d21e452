"""What runs together in a block: a rectangle of subnets and micro-batches."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.schedule.operations import Operation

LANES = (Operation.FULL, Operation.REST, Operation.FORWARD_ONLY)
"""Operations that run anything."""


@dataclass(frozen=True, eq=False)
class LaneGroup:
    """One sliced computation: all its subnets on all its micro-batches.

    What a cell of it that is not FULL must not leave behind, a result or a gradient, is masked.
    Where each subnet is FULL in all its cells, or REST in all, nothing is.

    Attributes:
        subnets: indices into the partition, sorted.
        microbatches: indices, sorted.
        cells: operations, SHORTCUT where another group has the cell or none, int8
            ``[subnets, microbatches]``.
        trained: those whose dW is made, bool ``[subnets]``: all of a group with masks, or with
            adapters, if any is FULL anywhere; else those that are.
    """

    subnets: tuple[int, ...]
    microbatches: tuple[int, ...]
    cells: np.ndarray
    trained: np.ndarray
