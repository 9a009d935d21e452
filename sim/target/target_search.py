"""Plans for a step time: levels of every block such that the simulated step meets a target."""

import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from d2ft_sched.costs.exchange import SUBLAYERS
from d2ft_sched.deployment import Deployment
from d2ft_sched.plan.planning import plan_from_solution, solve_formulation
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.problem.formulate import Formulation, formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.solution import Solution, Status, checked_solution
from d2ft_sched.schedule.operations import Operation
from sim.step import simulate_dense, simulate_plan, simulate_step
from sim.target.level_choices import LevelChoices, choose_levels, level_choices

TOLERANCE = 0.02
"""How far below the target a step may stay, relatively, before the plan says so."""
ROUNDING = 1e-9
"""Relative excess over the target that rounding explains."""
MAX_TRIES = 12
"""Times that levels are chosen: anew where the schedule took too long, or much less than it may."""
COVERING_WORK = 10_000
"""Nodes of branch and bound, times items, for the schedule of one try under a coverage, which takes
longer to prove."""
LOOSER = 1.25
"""Factor of the time that blocks get where levels hold no plan of the coverage asked for."""
LEAST_CORRECTION = 1e-3
"""Relative, where a smaller one left the levels as they were; doubled each time."""


@dataclass(frozen=True, eq=False)
class TargetSearch:
    """Plans for any step time on one placement; what does not depend on the time is kept.

    Attributes:
        deployment: one replica.
        scores: contribution of every subnet to every micro-batch.
        aligned: whether all subnets of a block on one device do the same with a micro-batch.
        coverage: see `Budget`.
    """

    deployment: Deployment
    scores: Scores
    aligned: bool = False
    coverage: int = 0

    @cached_property
    def fixed_s(self) -> float:
        """Seconds of what no schedule leaves out: embedding, all-reduce, optimizer."""
        return self._uniform_s(Operation.SHORTCUT)

    @cached_property
    def dense_s(self) -> float:
        """Seconds of the dense step."""
        return self._uniform_s(Operation.FULL)

    @cached_property
    def besides_lanes_s(self) -> float:
        """Seconds of the dense step in which neither lanes nor their messages run."""
        dense = simulate_dense(self.deployment)
        return dense.exposed_sums_s + sum(
            phase.duration_s
            for phase in dense.phases
            if not phase.is_sum and not phase.name.startswith(SUBLAYERS)
        )

    def of_first(self, number: int) -> "TargetSearch":
        """The same with the first of its micro-batches alone."""
        kept = np.arange(number)
        scores = Scores(self.scores.forward[:, kept], self.scores.backward[:, kept])
        return replace(self, deployment=self.deployment.with_only(kept), scores=scores)

    def most_microbatches(self, target_s: float) -> int:
        """How many of its first micro-batches leave some of that time to lanes."""
        numbers = range(1, self.deployment.workload.num_microbatches + 1)
        return bisect_right(numbers, target_s, key=lambda number: self.of_first(number).fixed_s)

    def _uniform_s(self, operation: Operation) -> float:
        return simulate_step(self.deployment, self.deployment.uniform(operation)).step_s

    @cached_property
    def choices(self) -> LevelChoices:
        """What every block can do."""
        return level_choices(self.deployment, self.scores, self.aligned, self.coverage)

    def plan(
        self,
        target_s: float,
        *,
        solver: str = "dp",
        seed: int = 0,
        time_limit_s: float | None = None,
    ) -> Plan | None:
        """The plan of most score with a step of at most `target_s`; None where none was found."""
        if self.fixed_s > target_s:
            return None
        besides_s = min(self.besides_lanes_s, target_s)
        available_s, correction = target_s - besides_s, ROUNDING
        levels = choose_levels(self.choices, available_s)
        if self.dense_s <= target_s * (1 + ROUNDING):
            levels = self.choices.highest
        best: Plan | None = None
        enough_s, too_much_s, last_s = 0.0, np.inf, np.inf
        for _ in range(MAX_TRIES):
            found = self._planned(levels, target_s, solver, seed, time_limit_s)
            if found is None:  # looser levels may hold one
                enough_s = max(enough_s, available_s)
                if best is not None or too_much_s - enough_s < LEAST_CORRECTION * enough_s:
                    break
                between = (enough_s + too_much_s) / 2
                looser = LOOSER * max(available_s, self.choices.least_s)
                available_s = between if np.isfinite(between) else looser
                levels = choose_levels(self.choices, available_s)
                continue
            plan, step_s = found
            if step_s <= target_s * (1 + ROUNDING):
                enough_s = available_s
                if best is None or plan.solver.objective > best.solver.objective:
                    best = _with_method(plan, step_s, target_s)
                if step_s >= target_s * (1 - TOLERANCE) or not np.isfinite(too_much_s):
                    break
            elif levels == self.choices.least:
                break
            else:
                too_much_s = available_s
            if best is not None or enough_s > 0:
                if too_much_s - enough_s < LEAST_CORRECTION * enough_s:
                    break
                available_s = (enough_s + too_much_s) / 2
            else:
                correction = max(LEAST_CORRECTION, 2 * correction) if step_s >= last_s else ROUNDING
                available_s *= (target_s - besides_s) / (step_s - besides_s) * (1 - correction)
            last_s = step_s
            levels = choose_levels(self.choices, available_s)
        if best is None and levels != self.choices.least:
            found = self._planned(self.choices.least, target_s, solver, seed, time_limit_s)
            if found is not None and found[1] <= target_s * (1 + ROUNDING):
                best = _with_method(*found, target_s)
        return best

    @cached_property
    def _quickest(self) -> np.ndarray | None:
        """Of all covering schedules that are found, that of least time; None if there is none."""
        choices = self.choices
        if choices.blocks is None or choices.covering is None:
            return None
        return choices.blocks.quickest(choices.covering)

    @cached_property
    def quickest_s(self) -> float:
        """Seconds of the quickest step of the coverage that is found; inf for none."""
        if self._quickest is None or self.choices.blocks is None:
            return np.inf
        return self._step_s(self.choices.blocks.dense.schedule(self._quickest))

    def timed_plan(self, target_s: float, seed: int = 0) -> Plan | None:
        """The plan of a covering schedule that is changed operation by operation while its step
        takes at most `target_s`; None if the quickest takes longer."""
        blocks, rows = self.choices.blocks, self._quickest
        if blocks is None or rows is None or self.quickest_s > target_s * (1 + ROUNDING):
            return None
        begin = time.perf_counter()
        spare_s = max(0.0, target_s - self.quickest_s)
        for part in (1.0, 0.5):  # sums of gradients may take longer
            filled = blocks.filled(rows, part * spare_s)
            step_s = self._step_s(blocks.dense.schedule(filled))
            if step_s <= target_s * (1 + ROUNDING):
                break
        else:
            filled, step_s = rows, self.quickest_s
        budget = self._budget(blocks.levels(filled), target_s)
        formulation = self._formulation(budget)
        solution = checked_solution(
            formulation.problem,
            filled,
            upper_bound=np.inf,
            status=Status.FEASIBLE,
            build_s=0.0,
            solve_s=time.perf_counter() - begin,
            solver="dp",
            method="a covering schedule, changed operation by operation",
        )
        solution = replace(solution, schedule=formulation.schedule(filled))
        return _with_method(self._plan_of(budget, solution, seed), step_s, target_s)

    def _step_s(self, schedule: np.ndarray) -> float:
        return simulate_step(self.deployment, schedule).step_s

    def _planned(
        self,
        levels: BlockLevels,
        target_s: float,
        solver: str,
        seed: int,
        time_limit_s: float | None,
    ) -> tuple[Plan, float] | None:
        """The plan of some levels, and the seconds of its step; None where they hold none."""
        budget = self._budget(levels, target_s)
        formulation = self._formulation(budget)
        num_nodes = max(1, COVERING_WORK // formulation.problem.num_items)
        solution = solve_formulation(
            formulation,
            solver,
            time_limit_s=time_limit_s,
            seed=seed,
            max_nodes=num_nodes if self.coverage else None,
        )
        if solution.schedule is None and self.coverage:
            return None
        plan = self._plan_of(budget, solution, seed)
        return plan, simulate_plan(plan).step_s

    def _budget(self, levels: BlockLevels, target_s: float) -> Budget:
        return Budget(
            patterns=1 if self.aligned else None,
            levels=levels,
            target_step_s=target_s,
            coverage=self.coverage,
        )

    def _formulation(self, budget: Budget) -> Formulation:
        return formulate(self.deployment, self.scores, budget)

    def _plan_of(self, budget: Budget, solution: Solution, seed: int) -> Plan:
        return plan_from_solution(self.deployment, budget, solution, seed=seed)


def _with_method(plan: Plan, step_s: float, target_s: float) -> Plan:
    text = f"levels for a step of {target_s:.4g} s, simulated {step_s:.4g} s"
    if step_s < target_s * (1 - TOLERANCE):
        is_dense = bool((plan.schedule == Operation.FULL).all())
        reason = "dense needs no more" if is_dense else "no levels that keep more score fit"
        text += f" ({1 - step_s / target_s:.1%} below: {reason})"
    return replace(plan, solver=replace(plan.solver, method=f"{plan.solver.method}; {text}"))
