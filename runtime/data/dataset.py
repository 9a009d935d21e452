"""What a data set holds in memory, whatever its samples are."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from runtime.data.fingerprint import Fingerprint

IGNORED = -100
"""Label of a token that is not to be foretold: of a prompt, of padding, the first of a text."""


@dataclass(frozen=True)
class Split:
    """Samples and their classes as tensors.

    Attributes:
        inputs: samples as they are stored, ``[num_samples, ...]``: pictures are uint8
            ``[num_samples, 3, image_size, image_size]``.
        labels: int64 ``[num_samples]``, classes; or ``[num_samples, num_tokens]``, the tokens
            themselves where they are to be foretold and `IGNORED` elsewhere.
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
        class_names: names by label; none where tokens are foretold.
        fingerprint: of class names and chosen samples.
        parts: where the two parts come from, for people.
        skipped: samples that could not be read and were left out, a line each.
        layout: how texts became sequences, for people.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    parts: str = ""
    skipped: tuple[str, ...] = ()
    layout: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def describe_split(self) -> str:
        """Which samples are for what, in one line."""
        if self.train.labels.dim() > 1:
            return self._describe_sequences()
        counts = [
            torch.bincount(part.labels.cpu(), minlength=self.num_classes)
            for part in (self.train, self.test)
        ]
        of_class = ["0", "0"]
        for i, own in enumerate(counts):
            least, most = int(own.min()), int(own.max())
            of_class[i] = str(most) if least == most else f"{least} to {most}"
        line = (
            f"{len(self.train)} samples to train on and {len(self.test)} to test on "
            f"({self.parts}), {of_class[0]} and {of_class[1]} of a class"
        )
        for own, what in zip(counts, ("to train", "to test"), strict=True):
            missing = [self.class_names[i] for i in (own == 0).nonzero().flatten().tolist()]
            if missing:
                more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
                line += f"; none {what} on of {missing[0]!r}{more}"
        return line

    def _describe_sequences(self) -> str:
        num_train, num_test = (int((p.labels != IGNORED).sum()) for p in (self.train, self.test))
        return (
            f"{len(self.train)} sequences of {self.train.labels.shape[1]} tokens to train on and "
            f"{len(self.test)} to test on ({self.parts}), {self.layout}; {num_train} and "
            f"{num_test} tokens are counted"
        )
