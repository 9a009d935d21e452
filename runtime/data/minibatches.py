"""Mini-batches of micro-batches, drawn once, so that a schedule can belong to each."""

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from d2ft_sched.errors import InputError


@dataclass(frozen=True, eq=False)
class Minibatches:
    """Which samples make each mini-batch of a training.

    Samples are shuffled once. Where they do not fill whole mini-batches, each epoch leaves out
    others, in turn, so that none is left out in two epochs that follow one another; what the first
    epoch left out takes the places of these, in at most two mini-batches, and all others stay.

    Attributes:
        num_samples: to train on.
        minibatch_samples: of each mini-batch.
        seed: of the shuffling and of the orders.
    """

    num_samples: int
    minibatch_samples: int
    seed: int

    def __len__(self) -> int:
        """Mini-batches of an epoch."""
        return self.num_samples // self.minibatch_samples

    @property
    def num_left_out(self) -> int:
        """Samples that an epoch leaves out."""
        return self.num_samples % self.minibatch_samples

    @property
    def num_different_epochs(self) -> int:
        """After so many epochs the samples that are left out are the same again."""
        return self.num_samples // gcd(self.num_samples, self.num_left_out)

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Samples of each mini-batch in an epoch, counted from 1, int ``[len(self),
        minibatch_samples]``."""
        num_used = self.num_samples - self.num_left_out
        first = self.num_samples - epoch * self.num_left_out
        left_out = (first + np.arange(self.num_left_out)) % self.num_samples
        places = np.arange(num_used)
        places[left_out[left_out < num_used]] = np.setdiff1d(
            np.arange(num_used, self.num_samples), left_out
        )
        return self._shuffled[places].reshape(len(self), -1)

    def order(self, epoch: int) -> np.ndarray:
        """As `epoch_order`."""
        return epoch_order(len(self), epoch, self.seed)

    def describe_left_out(self) -> str | None:
        """What an epoch leaves out, in one line; None if nothing."""
        if not self.num_left_out:
            return None
        return (
            f"Each epoch leaves out {self.num_left_out} of {self.num_samples} training samples, "
            f"which do not fill a mini-batch of {self.minibatch_samples}; the next one others"
        )

    @cached_property
    def _shuffled(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(self.num_samples)


def draw_minibatches(num_samples: int, minibatch_samples: int, seed: int) -> Minibatches:
    """The mini-batches of a training.

    Raises:
        InputError: there are fewer samples than one mini-batch needs.
    """
    if num_samples < minibatch_samples:
        raise InputError(
            f"{num_samples} training samples do not fill one mini-batch of {minibatch_samples}; "
            f"take more of them, or fewer or smaller micro-batches"
        )
    return Minibatches(num_samples, minibatch_samples, seed)


def epoch_order(num_minibatches: int, epoch: int, seed: int) -> np.ndarray:
    """The order in which an epoch goes through the mini-batches, int ``[num_minibatches]``."""
    return np.random.default_rng((seed, epoch)).permutation(num_minibatches)


def redealt(samples: np.ndarray, owner: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """A mini-batch's samples in another order, in which every owner keeps its own.

    Args:
        samples: int ``[num_samples]``.
        owner: of each, int ``[num_samples]``.
        seed: of the order.
    """
    mixed, rng = samples.copy(), np.random.default_rng(seed)
    for one in np.unique(owner):
        own = np.flatnonzero(owner == one)
        mixed[own] = samples[rng.permutation(own)]
    return mixed
