"""Which samples are to train and to test on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted

TEST_SHARE = 0.2
"""Share of a class's samples that are for testing where neither source nor user says."""

OnBadFile = Literal["fail", "skip"]
"""What to do about a sample that cannot be read."""


@dataclass(frozen=True)
class Limits:
    """Which samples are wanted; as `runtime.data.load_data.load_data` takes them."""

    num_train: int | None
    num_test: int | None
    seed: int
    held_out: bool
    on_bad_file: OnBadFile

    def choose(
        self, labels: np.ndarray, test_labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `choose_samples`."""
        rng = np.random.default_rng(self.seed)
        return choose_samples(labels, test_labels, self.num_train, self.num_test, rng)


def choose_samples(
    labels: np.ndarray,
    test_labels: np.ndarray | None,
    num_train: int | None,
    num_test: int | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the training and into the test samples; the same samples if not split.

    Of samples that are not split, each class with two or more keeps at least one to train on, and
    gets at least one to test on where `num_test` allows it; a class of one is trained on.

    Args:
        labels: int ``[num_samples]``, of all samples or those to train on.
        test_labels: of those to test on, or None.
        num_train, num_test: how many; None for all, or for `TEST_SHARE` of each class.
        rng: source of the choice.

    Raises:
        InputError: there are not as many.
    """
    if test_labels is not None:
        train = choose_balanced(labels, num_train, rng, "training")
        return train, choose_balanced(test_labels, num_test, rng, "test")
    counts = np.bincount(labels)
    most = np.maximum(counts - 1, 0)
    if num_test is None:
        most = np.minimum(most, np.maximum(1, np.round(TEST_SHARE * counts).astype(int)))
        num_test = int(most.sum())
    if not 1 <= num_test <= most.sum():
        raise InputError(
            f"{counted(num_test, 'sample')} for test are asked for; at least 1 is needed, and "
            f"there are {most.sum()} where one of each class stays for training"
        )
    test = choose_balanced(labels, num_test, rng, "test", most)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    return rest[choose_balanced(labels[rest], num_train, rng, "training")], test


def choose_balanced(
    labels: np.ndarray,
    num_samples: int | None,
    rng: np.random.Generator,
    purpose: str,
    most: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of `num_samples` samples in random order, classes as equal as they can be.

    Args:
        labels: int ``[num_candidates]``.
        num_samples: how many; None for all.
        rng: source of the choice.
        purpose: what they are for, to say so in an error.
        most: of each class, int ``[num_classes]``; None for no limit.

    Raises:
        InputError: there are not as many.
    """
    shuffled = rng.permutation(len(labels))
    if num_samples is None:
        num_samples = len(labels)
    if not 1 <= num_samples <= len(labels):
        raise InputError(
            f"{counted(num_samples, 'sample')} for {purpose} are asked for; there are "
            f"{len(labels)}, and at least 1 is needed"
        )
    rank_in_class = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank_in_class[members] = np.arange(len(members))
    class_by_class = shuffled[np.argsort(rank_in_class[shuffled], kind="stable")]
    if most is not None:
        class_by_class = class_by_class[
            rank_in_class[class_by_class] < most[labels[class_by_class]]
        ]
    return rng.permutation(class_by_class[:num_samples])
