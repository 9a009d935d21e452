"""How the learning rate goes on after its warm-up, by name."""

from enum import StrEnum


class LrScheduleName(StrEnum):
    """A value of ``d2ft finetune --lr-schedule``."""

    COSINE = "cosine"
    CONSTANT = "constant"
