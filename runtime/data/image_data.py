"""Labelled pictures and where they come from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Pictures:
    """Pictures that can be read one by one.

    Attributes:
        labels: int ``[num_pictures]``.
        read: the picture of an index; raises InputError if it is unreadable.
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
