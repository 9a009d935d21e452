"""Scores that change during training: refreshed by passes, or seen in passing."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import nn

from d2ft_sched.scores import Scores


class ScoreSource(Protocol):
    """Scores of the mini-batch of each step.

    Attributes:
        seconds: spent on scoring so far.
        minibatches_scored: by passes of their own so far.
    """

    seconds: float
    minibatches_scored: int

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        """For the step that comes, with the model as it is before it."""
        ...

    def see(self, minibatch: int, taylor: np.ndarray) -> None:
        """Told the Taylor scores of a step that was done, NaN where an operation was not FULL."""
        ...


class RefreshedScores:
    """Scores of the mini-batches to come, taken from the model as it is every so many steps."""

    def __init__(
        self,
        order: Sequence[int],
        every: int,
        score: Callable[[nn.Module, Sequence[int]], Sequence[Scores]],
    ) -> None:
        """Take the mini-batch of every step, the steps between passes, and what scores a few."""
        self._order, self._every, self._score = order, every, score
        self._known: dict[int, Scores] = {}
        self.seconds, self.minibatches_scored = 0.0, 0

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        if step % self._every == 0:
            begin = time.perf_counter()
            coming = sorted({int(j) for j in self._order[step : step + self._every]})
            self._known = dict(zip(coming, self._score(model, coming), strict=True))
            self.minibatches_scored += len(coming)
            self.seconds += time.perf_counter() - begin
        return self._known[minibatch]

    def see(self, minibatch: int, taylor: np.ndarray) -> None:
        """Nothing is learnt."""


class RunningScores:
    """Taylor scores of FULL operations as they are executed, without a pass of their own.

    A backward score is the product of a subnet's running average over all it was seen on and of a
    micro-batch's factor: its mean over subnets, relative to their averages, when it was seen last
    (our reading). What was not seen yet has the mean of all subnets; factors begin as random
    numbers around 1, the same for all subnets. Forward scores are given and stay.
    """

    def __init__(
        self, forward: np.ndarray, num_minibatches: int, seed: int, decay: float = 0.9
    ) -> None:
        """Take forward scores ``[num_subnets, num_microbatches]`` and what a step keeps of an
        average."""
        self._forward, self._decay = forward, decay
        self._average = np.full(len(forward), np.nan)
        rng = np.random.default_rng((seed, 3))
        self._factor = rng.uniform(0.5, 1.5, (num_minibatches, forward.shape[1]))
        self.seconds, self.minibatches_scored = 0.0, 0

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        return Scores(self._forward, self._filled()[:, None] * self._factor[minibatch])

    def see(self, minibatch: int, taylor: np.ndarray) -> None:
        begin = time.perf_counter()
        is_seen = np.isfinite(taylor)
        counts = is_seen.sum(axis=1)
        new = np.where(is_seen, taylor, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
        old = self._average[counts > 0]
        self._average[counts > 0] = np.where(
            np.isnan(old), new, self._decay * old + (1 - self._decay) * new
        )
        average = self._filled()[:, None]
        relative = np.divide(taylor, average, out=np.zeros_like(taylor), where=average > 0)
        for microbatch in np.flatnonzero(is_seen.any(axis=0)):
            own = relative[is_seen[:, microbatch], microbatch]
            self._factor[minibatch, microbatch] = own.mean()
        self.seconds += time.perf_counter() - begin

    def _filled(self) -> np.ndarray:
        is_known = np.isfinite(self._average)
        return (
            np.where(is_known, self._average, self._average[is_known].mean())
            if (is_known.any())
            else np.ones(len(self._average))
        )
