"""Blocks that rest, the others drawn by what a training has seen of them so far."""

import numpy as np

from d2ft_sched.plan.redrawn import with_trained
from d2ft_sched.problem.resting import drawn_by_scores
from d2ft_sched.problem.running_scores import DECAY


class ScoredRest:
    """Schedules of a training, each from what the steps before it have seen: a
    `runtime.training.loop.Learner`.

    A unit's score is the running average of the sum of its subnets' backward scores. Units that
    rest show theirs, too, where the gradient passes them. What was not seen yet has the mean of the
    others.
    """

    def __init__(self, schedule: np.ndarray, unit: np.ndarray, seed: int) -> None:
        """Begin.

        Args:
            schedule: whose samples run and as many of whose units train in every step, int8
                ``[num_subnets, num_microbatches]``.
            unit: of each subnet, from 0, int ``[num_subnets]``.
            seed: of the training.
        """
        self._schedule, self._unit, self._seed = schedule, unit, seed
        self._average = np.full(int(unit.max()) + 1, np.nan)

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """The schedule of a step."""
        is_known = np.isfinite(self._average)
        mean = self._average[is_known].mean() if is_known.any() else 1.0
        score = np.where(is_known, self._average, mean)
        return with_trained(
            self._schedule,
            self._unit,
            lambda part: drawn_by_scores(step, self._seed, np.ones(len(score)), part, score),
        )

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """As `runtime.training.loop.Learner`."""
        is_seen = np.isfinite(seen)
        new = np.bincount(self._unit, np.where(is_seen, seen, 0.0).sum(axis=1))
        some = np.bincount(self._unit, is_seen.sum(axis=1)) > 0
        old = np.where(np.isnan(self._average), new, self._average)
        self._average = np.where(some, DECAY * old + (1 - DECAY) * new, self._average)
