"""Where a training is logged besides its metrics, by name."""

from enum import StrEnum


class LogName(StrEnum):
    """A value of ``d2ft finetune --log``."""

    TENSORBOARD = "tensorboard"
