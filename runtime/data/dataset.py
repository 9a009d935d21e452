"""What a data set holds in memory, whatever its samples are."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Samples and their classes as tensors.

    Attributes:
        inputs: samples as they are stored, ``[num_samples, ...]``: pictures are uint8
            ``[num_samples, 3, image_size, image_size]``.
        labels: int64 ``[num_samples]``.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.inputs.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set for fine-tuning, whole in memory.

    Attributes:
        name: as the user calls it.
        train, test: its two parts, without common samples.
        class_names: names by label.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
