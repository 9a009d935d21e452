"""Where schedules of a training come from: one for all steps, or one for each."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from d2ft_sched.formulate import Formulation
from d2ft_sched.minibatch_schedules import solve_minibatches
from d2ft_sched.replanning import DevicePace, HeldLevels, as_planned


class Schedules(Protocol):
    """From a step and its mini-batch to the schedule, under capacities that may change."""

    @property
    def lasting(self) -> np.ndarray | None:
        """The schedule of every step; None where it changes."""
        ...

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """Int ``[num_subnets, num_microbatches]``; steps are counted from 0."""
        ...

    def keep_pace(self, levels: HeldLevels, pace: DevicePace, changed: Sequence[int]) -> None:
        """From now on spend the levels on devices of this pace, which `changed` on some."""
        ...

    def go_on(self, levels: HeldLevels, pace: DevicePace, lasting: np.ndarray | None) -> None:
        """Take up what a checkpoint says: the pace in force, and the schedule if it lasts."""
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
            solver: that makes these; a name that `d2ft_sched.solve` knows.
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
            self._now = np.asarray(lasting, dtype=np.int8)


class SolvedSchedules:
    """A schedule for each step, found when the step begins."""

    def __init__(
        self,
        formulation: Formulation,
        value_of: Callable[[int, int], np.ndarray],
        solver: str = "dp",
        seed: int = 0,
    ) -> None:
        """Begin with the capacities of `formulation`.

        Args:
            formulation: knapsacks, costs and capacities.
            value_of: values of operations for a step and its mini-batch, float ``[num_subnets,
                num_microbatches, 3]``.
            solver: a name that `d2ft_sched.solve` knows.
            seed: for solvers with random choices; mini-batch j gets ``seed + j``.
        """
        self._formulation, self._value_of = formulation, value_of
        self._solver, self._seed = solver, seed

    @property
    def lasting(self) -> np.ndarray | None:
        return None

    def __call__(self, step: int, minibatch: int) -> np.ndarray:
        """Its schedule.

        Raises:
            InputError: none fits.
        """
        value, seed = self._value_of(step, minibatch), self._seed + minibatch
        return solve_minibatches(self._formulation, [value], self._solver, seed=seed).operations[0]

    def keep_pace(self, levels: HeldLevels, pace: DevicePace, changed: Sequence[int]) -> None:
        self._formulation = levels.formulation_at(pace)

    def go_on(self, levels: HeldLevels, pace: DevicePace, lasting: np.ndarray | None) -> None:
        if pace != as_planned(len(pace.slowdown)):
            self._formulation = levels.formulation_at(pace)
