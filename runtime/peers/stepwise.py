"""Schedules that are decided step by step during training."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from d2ft_sched.files.seeds import following_seed
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.problem.formulate import Formulation
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from runtime.peers.score_sources import ScoreSource


class StepwiseSchedules:
    """From a step and its mini-batch to the schedule; remembers what it decided.

    Attributes:
        score_names: see `__init__`.
        schedules: of the steps so far, int8 ``[num_subnets, num_microbatches]`` each.
        minibatches_scored: by passes of their own before each of these steps.
        solve_s: seconds of solving so far.
    """

    def __init__(
        self,
        source: ScoreSource,
        formulations: Sequence[Formulation],
        value_of: Callable[[Scores], np.ndarray],
        solver: str,
        *,
        score_names: tuple[str, str] = ("uniform", "uniform"),
        warmup_steps: int = 0,
        seed: int = 0,
    ) -> None:
        """Prepare.

        Args:
            source: of scores.
            formulations: of every step; one object may stand for many.
            value_of: from scores to values ``[num_subnets, num_microbatches, 3]``.
            solver: a name that `d2ft_sched.solvers.registry` knows.
            score_names: forward and backward score that the source takes by passes, if it does.
            warmup_steps: steps that are all FULL.
            seed: for solvers with random choices.
        """
        self._source, self._formulations, self._value_of = source, formulations, value_of
        self._solver, self._warmup_steps, self._seed = solver, warmup_steps, seed
        self._model: nn.Module | None = None
        self.score_names = score_names
        self.schedules: list[np.ndarray] = []
        self.minibatches_scored: list[int] = []
        self.solve_s = 0.0

    @property
    def scoring_s(self) -> float:
        """Seconds of scoring so far."""
        return self._source.seconds

    @property
    def watches(self) -> bool:
        """Whether it must be told what every step has seen."""
        return self._source.watches

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """As `runtime.training.loop.Learner`."""
        self._source.see(minibatch, seen)

    def begin(self, model: nn.Module) -> None:
        """Told the model in training before the first step."""
        self._model = model

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """The schedule of a step; asked for one after another."""
        assert self._model is not None
        before = self._source.minibatches_scored
        scores = self._source.scores(self._model, step, minibatch)
        begin = time.perf_counter()
        if step < self._warmup_steps:
            schedule = np.full(scores.backward.shape, Operation.FULL, dtype=np.int8)
        else:
            values = [self._value_of(scores)]
            formulation = self._formulations[step]
            solved = solve_minibatches(
                formulation, values, self._solver, seed=following_seed(self._seed, step)
            )
            schedule = solved.operations[0]
        self.solve_s += time.perf_counter() - begin
        self.schedules.append(schedule)
        self.minibatches_scored.append(self._source.minibatches_scored - before)
        return schedule
