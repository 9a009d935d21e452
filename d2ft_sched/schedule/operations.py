"""The three operations of D2FT (arXiv 2504.12471) and their letters in files."""

from enum import IntEnum


class Operation(IntEnum):
    """What a subnet does with a micro-batch.

    The integer value is the index on the last axis of every ``value`` and ``cost`` array.
    """

    SHORTCUT = 0
    """Neither forward nor backward: the residual carries the sample past the subnet (p_s)."""
    FORWARD_ONLY = 1
    """Forward without backward (p_o)."""
    FULL = 2
    """Forward and backward (p_f)."""

    @property
    def letter(self) -> str:
        """How schedules are written in files: F, O or S."""
        return "SOF"[self]


NUM_OPERATIONS = len(Operation)
