"""Scores from what a training sees in passing: of FULL operations as they are executed.

A backward score is the product of a subnet's running average over all it was seen on and of a
micro-batch's factor: its mean over subnets, relative to their averages, when it was seen last (our
reading). What was not seen yet has the mean of all subnets; factors begin as random numbers around
1, the same for all subnets. Forward scores are given and stay.
"""

from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.problem.scores import Scores

DECAY = 0.9
"""What a step keeps of an average."""


@dataclass(frozen=True, eq=False)
class RunningScores:
    """What has been seen so far.

    Attributes:
        forward: score of running a subnet, float ``[num_subnets]``.
        average: of each subnet's backward scores, float ``[num_subnets]``; NaN if none was seen.
        factor: of each micro-batch, float ``[num_minibatches, num_microbatches]``.
    """

    forward: np.ndarray
    average: np.ndarray
    factor: np.ndarray

    def of(self, minibatch: int) -> Scores:
        """Scores of one mini-batch."""
        forward = np.repeat(self.forward[:, None], self.factor.shape[1], axis=1)
        return Scores(forward, self._filled[:, None] * self.factor[minibatch])

    def after(self, minibatch: int, seen: np.ndarray, decay: float = DECAY) -> "RunningScores":
        """With the scores of one more step.

        Args:
            minibatch: that was trained on.
            seen: float ``[num_subnets, num_microbatches]``, NaN where an operation was not FULL.
            decay: see `DECAY`.
        """
        is_seen = np.isfinite(seen)
        counts = is_seen.sum(axis=1)
        some = counts > 0
        new = np.where(is_seen, seen, 0.0).sum(axis=1)[some] / counts[some]
        average = self.average.copy()
        old = average[some]
        average[some] = np.where(np.isnan(old), new, decay * old + (1 - decay) * new)
        now = replace(self, average=average, factor=self.factor.copy())
        filled = now._filled[:, None]
        relative = np.divide(seen, filled, out=np.zeros_like(seen), where=filled > 0)
        for microbatch in np.flatnonzero(is_seen.any(axis=0)):
            own = relative[is_seen[:, microbatch], microbatch]
            now.factor[minibatch, microbatch] = own.mean()
        return now

    @property
    def _filled(self) -> np.ndarray:
        is_known = np.isfinite(self.average)
        if not is_known.any():
            return np.ones(len(self.average))
        return np.where(is_known, self.average, self.average[is_known].mean())


def nothing_seen(
    forward: np.ndarray, num_minibatches: int, num_microbatches: int, seed: int
) -> RunningScores:
    """What a training begins with; `forward` as in `RunningScores`."""
    factor = np.random.default_rng((seed, 3)).uniform(0.5, 1.5, (num_minibatches, num_microbatches))
    return RunningScores(forward, np.full(len(forward), np.nan), factor)
