"""The parts of a data set as they were chosen and read, put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.errors import InputError
from runtime.data.choice import Limits
from runtime.data.dataset import Dataset, Samples
from runtime.data.fingerprint import Fingerprint, digest_of_samples, digest_of_texts


class Labelled(Protocol):
    """Samples with a class each, of which more is known than their class."""

    @property
    def labels(self) -> np.ndarray: ...

    def name(self, index: int) -> str: ...

    def content(self, index: int) -> bytes: ...


class LabelledSource(Protocol):
    """A data set before samples are chosen; `test` is None where it does not tell them apart."""

    @property
    def name(self) -> str: ...

    @property
    def train(self) -> Labelled: ...

    @property
    def test(self) -> Labelled | None: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def parts(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Chosen:
    """Indices of the samples to train and to test on, before any is read.

    Attributes:
        train, test: int ``[num_samples]``; those to test on of the source's test part, or of the
            same as those to train on.
        is_split: whether both are of the source's training part.
        parts: where the two come from, for people.
    """

    train: np.ndarray
    test: np.ndarray
    is_split: bool
    parts: str


def choose(source: LabelledSource, limits: Limits) -> Chosen:
    """Which samples of a source are wanted."""
    test = None if limits.held_out else source.test
    test_labels = None if test is None else test.labels
    chosen = limits.choose(source.train.labels, test_labels)
    parts = f"drawn with seed {limits.seed}" if test is None else source.parts
    return Chosen(*chosen, test is None, parts)


@dataclass(frozen=True, eq=False)
class Part:
    """Samples of one part as they were read.

    Attributes:
        source: what they are of.
        indices: which, int ``[num_samples]``; without those that could not be read.
        samples: the same ones, to be trained or tested on.
        skipped: why the others could not be read, a line each.
    """

    source: Labelled
    indices: np.ndarray
    samples: Samples
    skipped: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        own = self.source
        return digest_of_samples(own.labels, self.indices, own.name, own.content)


def labels_of(source: Labelled, indices: np.ndarray) -> Tensor:
    """Of chosen samples, int64 ``[num_samples]``."""
    return torch.from_numpy(source.labels[indices].astype(np.int64))


def without(number: int, errors: Mapping[int, str]) -> np.ndarray:
    """The positions up to a number that are not among those of errors."""
    return np.setdiff1d(np.arange(number), list(errors))


def put_together(
    source: LabelledSource, train: Part, test: Part, parts: str, reading: str = ""
) -> Dataset:
    """A data set of its two parts.

    Raises:
        InputError: nothing of one of them could be read.
    """
    for part, what in ((train, "train"), (test, "test")):
        if not len(part.indices):
            raise InputError(f"data {source.name}: no sample to {what} on could be read")
    names = digest_of_texts(source.class_names)
    return Dataset(
        name=source.name,
        train=train.samples,
        test=test.samples,
        class_names=source.class_names,
        fingerprint=Fingerprint(names, train.digest, test.digest),
        parts=parts,
        skipped=(*train.skipped, *test.skipped),
        reading=reading,
    )
