"""What is done to training pictures, by name."""

from enum import StrEnum


class AugmentName(StrEnum):
    """A value of ``--augment``; as `runtime.data.pictures.transforms.Augment`."""

    NONE = "none"
    LIGHT = "light"
    TIMM = "timm"
