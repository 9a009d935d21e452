"""Labelled pictures and where they come from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

_IN_16_BITS = ("PNG", "PPM")


@dataclass(frozen=True)
class Pictures:
    """Pictures that can be read one by one.

    Attributes:
        labels: int ``[num_pictures]``.
        read: the picture of an index in RGB; raises InputError if it is unreadable.
    """

    labels: np.ndarray
    read: Callable[[int], Image.Image]


@dataclass(frozen=True)
class Source:
    """A data set before pictures are chosen and resized.

    Attributes:
        name: as the user calls it.
        train: pictures to train on, or all there are if `test` is None.
        test: pictures to test on, or None where the source does not tell them apart.
        class_names: names by label.
    """

    name: str
    train: Pictures
    test: Pictures | None
    class_names: tuple[str, ...]


def to_rgb(picture: Image.Image) -> Image.Image:
    """In three channels of 8 bits; grey of 16 bits is scaled by 1 / 257.

    Raises:
        ValueError: the picture is of numbers that say nowhere what is white.
    """
    # Pillow has numbers of 16 bits of these two formats in the mode of 32 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _IN_16_BITS):
        grey = (np.asarray(picture).astype(np.int64) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise ValueError(f"it is of {kind}; save it with 8 or 16 bits")
    return picture.convert("RGB")
