"""Schedules that are decided during a training, kept as they are followed."""

import time

import numpy as np
from torch import nn

from runtime.peers.refreshed_scores import RefreshedScores
from runtime.training.loop import Learner, ScheduleOf


class FollowedSchedules:
    """From a step and its mini-batch to the schedule; remembers what was decided.

    Attributes:
        score_names: see `__init__`.
        schedules: of the steps so far, int8 ``[num_subnets, num_microbatches]`` each.
        minibatches_scored: by passes of their own before each of these steps.
        solve_s: seconds of deciding so far, without scoring.
        scoring_s: seconds of scoring so far.
    """

    def __init__(
        self,
        schedule_of: ScheduleOf,
        *,
        learner: Learner | None = None,
        refreshed: RefreshedScores | None = None,
        score_names: tuple[str, str] = ("uniform", "uniform"),
    ) -> None:
        """Prepare.

        Args:
            schedule_of: what decides; asked for one step after another.
            learner: told what every step has seen, if the schedules follow from that.
            refreshed: scores by passes of their own, if they follow from these.
            score_names: forward and backward score of these passes.
        """
        self._schedule_of, self._learner, self._refreshed = schedule_of, learner, refreshed
        self.score_names = score_names
        self.schedules: list[np.ndarray] = []
        self.minibatches_scored: list[int] = []
        self.solve_s = self.scoring_s = 0.0

    @property
    def watches(self) -> bool:
        """Whether it must be told what every step has seen."""
        return self._learner is not None

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """As `runtime.training.loop.Learner`."""
        assert self._learner is not None
        begin = time.perf_counter()
        self._learner.see(minibatch, seen)
        self.scoring_s += time.perf_counter() - begin

    def begin(self, model: nn.Module) -> None:
        """Told the model in training before the first step."""
        if self._refreshed is not None:
            self._refreshed.begin(model)

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """The schedule of a step; asked for one after another."""
        before_s, before = self._passes
        begin = time.perf_counter()
        schedule = self._schedule_of(step, minibatch)
        took_s = time.perf_counter() - begin
        after_s, after = self._passes
        self.scoring_s += after_s - before_s
        self.solve_s += took_s - (after_s - before_s)
        self.schedules.append(schedule)
        self.minibatches_scored.append(after - before)
        return schedule

    @property
    def _passes(self) -> tuple[float, int]:
        one = self._refreshed
        return (0.0, 0) if one is None else (one.seconds, one.minibatches_scored)
