"""Where schedules of a training come from: one for all steps, or one for each."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from d2ft_sched.files.seeds import following_seed
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.plan.redrawn import chooses, is_redrawable, redrawn, resting_units
from d2ft_sched.plan.replanning import DevicePace, HeldLevels, as_planned
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.formulate import Formulation
from d2ft_sched.problem.scores import Scores, drawn_scores

SOLVED_AT_ONCE = 16
"""Schedules that are solved together: one alone takes 4 to 15 times as long for each."""

MOST_BATCHES = 256
"""Of these that are remembered."""


class Schedules(Protocol):
    """From a step and its mini-batch to the schedule."""

    @property
    def lasting(self) -> np.ndarray | None:
        """The schedule of every step; None where it changes."""
        ...

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """Int ``[num_subnets, num_microbatches]``; steps are counted from 0."""
        ...


class PacedSchedules(Schedules, Protocol):
    """`Schedules` under capacities that may change."""

    def keep_pace(self, levels: HeldLevels, pace: DevicePace, changed: Sequence[int]) -> None:
        """From now on spend the levels on devices of this pace, which `changed` on some."""
        ...

    def go_on(self, levels: HeldLevels, pace: DevicePace, lasting: np.ndarray | None) -> None:
        """Take up what a checkpoint says: the pace in force, and the schedule if it lasts."""
        ...


class DealtSchedules(Schedules, Protocol):
    """`Schedules` of micro-batches that may change."""

    def take(self, schedule: np.ndarray) -> None:
        """From now on do with other micro-batches what this one does with them."""
        ...


class OneSchedule:
    """The same schedule in all steps."""

    def __init__(
        self, schedule: np.ndarray, value: np.ndarray, solver: str = "dp", seed: int = 0
    ) -> None:
        """Begin with `schedule`, which devices at the pace of the first steps come back to.

        Args:
            schedule: int ``[num_subnets, num_microbatches]``.
            value: of operations, float ``[num_subnets, num_microbatches, 3]``, for later ones.
            solver: that makes these; a name that `d2ft_sched.solvers.registry` knows.
            seed: for solvers with random choices.
        """
        self._first = self._now = np.asarray(schedule, dtype=np.int8)
        self._value, self._solver, self._seed = value, solver, seed

    @property
    def lasting(self) -> np.ndarray | None:
        return self._now

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        return self._now

    def keep_pace(self, levels: HeldLevels, pace: DevicePace, changed: Sequence[int]) -> None:
        """Change the operations of the devices in `changed`; of all where devices share limits.

        Raises:
            InputError: no schedule fits.
        """
        formulation = levels.formulation_at(pace)
        (solved,) = solve_minibatches(
            formulation, [self._value], self._solver, seed=self._seed
        ).operations
        if formulation.problem.shared:
            self._now = solved
            return
        now = self._now.copy()
        for device in changed:
            is_first = pace.slowdown[device] == 1 and pace.later_s[device] == 0
            rows = levels.device == device
            now[rows] = (self._first if is_first else solved)[rows]
        self._now = now

    def go_on(self, levels: HeldLevels, pace: DevicePace, lasting: np.ndarray | None) -> None:
        if lasting is not None:
            self.take(lasting)

    def take(self, schedule: np.ndarray) -> None:
        self._now = np.asarray(schedule, dtype=np.int8)


class RedrawnSchedules:
    """A plan's schedule in which other heads, or blocks, train in each step; no score is asked."""

    def __init__(self, schedule: np.ndarray, unit: np.ndarray, policy: str, seed: int) -> None:
        """Draw as `d2ft_sched.plan.redrawn.redrawn` does.

        Args:
            schedule: the plan's, int ``[num_subnets, num_microbatches]``.
            unit: what rests as a whole, of each subnet, from 0, int ``[num_subnets]``.
            policy: a key of `d2ft_sched.plan.redrawn.POLICIES`.
            seed: of the training.
        """
        self._schedule, self._unit, self._policy, self._seed = schedule, unit, policy, seed

    @property
    def lasting(self) -> np.ndarray | None:
        return None

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        return redrawn(self._schedule, self._unit, step, self._seed, self._policy)

    def take(self, schedule: np.ndarray) -> None:
        self._schedule = schedule


def redrawn_schedules(plan: Plan, seed: int) -> RedrawnSchedules | None:
    """Schedules of the kind of a plan's, drawn anew in each step as its budget says.

    None where the plan neither lets anything rest nor leaves whole micro-batches out, or where what
    a subnet does depends on the micro-batch.
    """
    schedule = plan.schedule
    if not chooses(schedule) or not is_redrawable(schedule):
        return None
    unit = resting_units(schedule, plan.workload.partition.block)
    return RedrawnSchedules(schedule, unit, plan.budget.resting or "drawn", seed)


class ScoreSeries(Protocol):
    """Scores by an index, of which each step has one."""

    def index_of(self, step: int, minibatch: int) -> int:
        """The step's."""
        ...

    def some(self, first: int, number: int) -> Sequence[Scores]:
        """Those of `number` indices from `first` on; fewer if there are no more."""
        ...

    def forget(self) -> None:
        """What was asked for before has been thrown away."""
        ...


class KnownScores:
    """Scores of every mini-batch; steps on the same one have the same."""

    def __init__(self, scores: Sequence[Scores]) -> None:
        self._scores = scores

    def index_of(self, step: int, minibatch: int) -> int:
        return minibatch

    def some(self, first: int, number: int) -> Sequence[Scores]:
        return self._scores[first : first + number]

    def forget(self) -> None:
        pass


class DrawnScores:
    """`d2ft_sched.problem.scores.drawn_scores` of every step, however many there are."""

    def __init__(self, num_subnets: int, num_microbatches: int, seed: int) -> None:
        self._size, self._seed = (num_subnets, num_microbatches), seed

    def index_of(self, step: int, minibatch: int) -> int:
        return step

    def some(self, first: int, number: int) -> Sequence[Scores]:
        return [drawn_scores(*self._size, self._seed, first + i) for i in range(number)]

    def forget(self) -> None:
        pass


class SolvedSchedules:
    """A schedule for each step, solved a few at a time when the first of them is needed."""

    def __init__(
        self,
        formulation: Formulation,
        scores: ScoreSeries,
        solver: str = "dp",
        seed: int = 0,
        *,
        value_of: Callable[[Scores], np.ndarray] = Scores.values,
        at_once: int = SOLVED_AT_ONCE,
        **options: Any,
    ) -> None:
        """Begin with the capacities of `formulation`.

        Args:
            formulation: knapsacks, costs and capacities.
            scores: of the steps.
            solver: a name that `d2ft_sched.solvers.registry` knows.
            seed: for solvers with random choices; index j gets ``seed + j``.
            value_of: from scores to values ``[num_subnets, num_microbatches, 3]``.
            at_once: schedules that are solved together, from what is known then.
            options: for the solver, such as ``magnitude`` per subnet.
        """
        self._formulation, self._scores = formulation, scores
        self._solver, self._seed, self._options = solver, seed, options
        self._value_of, self._at_once = value_of, at_once
        self._solved: dict[int, np.ndarray] = {}

    @property
    def lasting(self) -> np.ndarray | None:
        return None

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """Its schedule.

        Raises:
            InputError: none fits.
        """
        batch, position = divmod(self._scores.index_of(step, minibatch), self._at_once)
        if batch not in self._solved:
            if len(self._solved) == MOST_BATCHES:
                self._solved.clear()
            self._solved[batch] = self._solve(batch * self._at_once)
        return self._solved[batch][position]

    def _solve(self, first: int) -> np.ndarray:
        values = [self._value_of(scores) for scores in self._scores.some(first, self._at_once)]
        seed = following_seed(self._seed, first)
        return solve_minibatches(
            self._formulation, values, self._solver, seed=seed, **self._options
        ).operations

    def keep_pace(self, levels: HeldLevels, pace: DevicePace, changed: Sequence[int]) -> None:
        self._formulation = levels.formulation_at(pace)
        self._solved.clear()
        self._scores.forget()

    def go_on(self, levels: HeldLevels, pace: DevicePace, lasting: np.ndarray | None) -> None:
        if pace != as_planned(len(pace.slowdown)):
            self.keep_pace(levels, pace, ())
