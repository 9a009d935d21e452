"""Scores that passes over the mini-batches to come take anew during a training."""

import time
from collections.abc import Callable, Sequence

from torch import nn

from d2ft_sched.problem.scores import Scores


class RefreshedScores:
    """A `runtime.training.schedule_source.ScoreSeries` of the model as it is when it is asked.

    Attributes:
        seconds: spent on passes so far.
        minibatches_scored: so far.
    """

    def __init__(
        self,
        minibatch_of: Sequence[int],
        score: Callable[[nn.Module, Sequence[int]], Sequence[Scores]],
    ) -> None:
        """Take the mini-batch of every step, and what scores a few of them."""
        self._minibatch_of, self._score = minibatch_of, score
        self._model: nn.Module | None = None
        self.seconds, self.minibatches_scored = 0.0, 0

    def begin(self, model: nn.Module) -> None:
        """Told the model in training before the first step."""
        self._model = model

    def index_of(self, step: int, minibatch: int) -> int:
        return step

    def some(self, first: int, number: int) -> Sequence[Scores]:
        assert self._model is not None
        begin = time.perf_counter()
        of_steps = self._minibatch_of[first : first + number]
        coming = sorted(set(of_steps))
        known = dict(zip(coming, self._score(self._model, coming), strict=True))
        self.minibatches_scored += len(coming)
        self.seconds += time.perf_counter() - begin
        return [known[minibatch] for minibatch in of_steps]

    def forget(self) -> None:
        """Passes are made anew whenever scores are asked for."""
