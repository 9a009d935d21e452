"""Labelled pictures: where they come from, and what a data set holds in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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


@dataclass(frozen=True)
class Split:
    """Pictures and their classes as tensors.

    Attributes:
        images: uint8 ``[num_samples, 3, image_size, image_size]``.
        labels: int64 ``[num_samples]``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set for fine-tuning, whole in memory.

    Attributes:
        name: as the user calls it.
        train, test: its two parts, without common pictures.
        class_names: names by label.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
