"""Scores that change during training: refreshed by passes, or seen in passing."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from torch import nn

from d2ft_sched.problem.running_scores import RunningScores
from d2ft_sched.problem.scores import Scores


class ScoreSource(Protocol):
    """Scores of the mini-batch of each step.

    Attributes:
        watches: whether it learns from the steps themselves.
        seconds: spent on scoring so far.
        minibatches_scored: by passes of their own so far.
    """

    watches: bool
    seconds: float
    minibatches_scored: int

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        """For the step that comes, with the model as it is before it."""
        ...

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """As `runtime.training.loop.Learner`; only called if it watches."""
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
        self.watches, self.seconds, self.minibatches_scored = False, 0.0, 0

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        if step % self._every == 0:
            begin = time.perf_counter()
            coming = sorted({int(j) for j in self._order[step : step + self._every]})
            self._known = dict(zip(coming, self._score(model, coming), strict=True))
            self.minibatches_scored += len(coming)
            self.seconds += time.perf_counter() - begin
        return self._known[minibatch]

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """Nothing is learnt."""


class SeenInPassing:
    """`d2ft_sched.problem.running_scores` of the operations as they are executed."""

    def __init__(self, running: RunningScores) -> None:
        self._running = running
        self.watches, self.seconds, self.minibatches_scored = True, 0.0, 0

    def scores(self, model: nn.Module, step: int, minibatch: int) -> Scores:
        return self._running.of(minibatch)

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        begin = time.perf_counter()
        self._running = self._running.after(minibatch, seen)
        self.seconds += time.perf_counter() - begin
