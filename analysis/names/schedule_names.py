"""Where the schedules of a training come from, by name."""

from enum import StrEnum


class ScheduleName(StrEnum):
    """A value of ``d2ft finetune --schedule``."""

    FIXED = "fixed"
    PER_MINIBATCH = "per-minibatch"
    PER_STEP = "per-step"
    RUNNING = "running"
