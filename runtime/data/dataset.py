"""What a data set holds, whatever its samples are and wherever they lie."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.files.counted import counted
from runtime.data.fingerprint import Fingerprint

IGNORED = -100
"""Label of a token that is not to be foretold: of a prompt, of padding, the first of a text."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Samples that will be asked for together.

    Attributes:
        rows: which of their part, int ``[n]``.
        epoch: of training, counted from 1, in which they may be changed; 0 for as they are.
    """

    rows: np.ndarray
    epoch: int = 0


class Batch(Protocol):
    """Samples at hand."""

    def of(self, rows: np.ndarray) -> Tensor:
        """Some of them as they are stored, ``[len(rows), ...]``."""
        ...


class Samples(Protocol):
    """Samples of one part of a data set and their labels, whether in memory or read as needed."""

    @property
    def labels(self) -> Tensor:
        """Of all samples, as `Split` has them."""
        ...

    @property
    def in_memory(self) -> Tensor | None:
        """All samples as they are stored; None where they are read as needed, as pictures are, of
        which only the labels are known."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> "Samples":
        """The same, given on that device."""
        ...

    def own(self, is_own: np.ndarray) -> "Samples":
        """The same, of which only those in ``bool [num_samples]`` will be asked for."""
        ...

    def read(self, wanted: Iterable[Wanted]) -> Generator[Batch, None, None]:
        """Batch after batch as they are wanted, which may be asked for long before they are given;
        closed, it reads no more.

        Raises:
            InputError: a sample cannot be read.
        """
        ...


@dataclass(frozen=True)
class Split:
    """`Samples` in memory.

    Attributes:
        inputs: samples as they are stored, ``[num_samples, ...]``: pictures are uint8
            ``[num_samples, 3, image_size, image_size]``.
        labels: int64 ``[num_samples]``, classes; or ``[num_samples, num_tokens]``, the tokens
            themselves where they are to be foretold and `IGNORED` elsewhere.
        places: where in `inputs` a sample is, int64 ``[num_samples]``; None for its own number.
    """

    inputs: Tensor
    labels: Tensor
    places: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def in_memory(self) -> Tensor:
        return self.inputs

    def to(self, device: torch.device) -> "Split":
        places = None if self.places is None else self.places.to(device)
        return Split(self.inputs.to(device), self.labels.to(device), places)

    def own(self, is_own: np.ndarray) -> "Split":
        places = torch.from_numpy(np.cumsum(is_own) - 1)
        return Split(self.inputs[torch.from_numpy(np.flatnonzero(is_own))], self.labels, places)

    def read(self, wanted: Iterable[Wanted]) -> "Generator[Split, None, None]":
        return (self for _ in wanted)

    def of(self, rows: np.ndarray) -> Tensor:
        chosen = torch.from_numpy(rows).to(self.inputs.device)
        return self.inputs[chosen if self.places is None else self.places[chosen]]


def runs(num_samples: int, length: int) -> Iterator[np.ndarray]:
    """The rows from the first to the last, so many at a time."""
    for start in range(0, num_samples, length):
        yield np.arange(start, min(start + length, num_samples))


@dataclass(frozen=True)
class Dataset:
    """A data set for fine-tuning.

    Attributes:
        name: as the user calls it.
        train, test: its two parts, without common samples.
        class_names: names by label; none where tokens are foretold.
        fingerprint: of class names and chosen samples.
        parts: where the two parts come from, for people.
        skipped: samples that could not be read and were left out, a line each.
        layout: how texts became sequences, for people.
        reading: whether pictures are in memory or read as needed, and why, for people.
    """

    name: str
    train: Samples
    test: Samples
    class_names: tuple[str, ...]
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    parts: str = ""
    skipped: tuple[str, ...] = ()
    layout: str = ""
    reading: str = ""

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
            f"{counted(len(self.train), 'sample')} to train on and {len(self.test)} to test on "
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
            f"{counted(len(self.train), 'sequence')} of "
            f"{counted(self.train.labels.shape[1], 'token')} to train on and "
            f"{len(self.test)} to test on ({self.parts}), {self.layout}; {num_train} and "
            f"{counted(num_test, 'token')} are counted"
        )
