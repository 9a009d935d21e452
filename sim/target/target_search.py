"""Plans for a step time: levels of every block such that the simulated step meets a target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from d2ft_sched.costs.exchange import SUBLAYERS
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.plan.planning import plan_from_solution, solve_formulation
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from sim.step import simulate_dense, simulate_plan, simulate_step
from sim.target.level_choices import LevelChoices, choose_levels, level_choices

TOLERANCE = 0.02
"""How far below the target a step may stay, relatively, before the plan says so."""
ROUNDING = 1e-9
"""Relative excess over the target that rounding explains."""
MAX_TRIES = 12
"""Times that levels are chosen: anew where the schedule took too long, or much less than it may."""
COVERING_S = 1.0
"""Seconds for the schedule of one try under a coverage, which takes longer to prove."""
LOOSER = 1.25
"""Factor of the time that blocks get where levels hold no plan of the coverage asked for."""
LEAST_CORRECTION = 1e-3
"""Relative, where a smaller one left the levels as they were; doubled each time."""


def parse_target(text: str) -> tuple[float, bool]:
    """``"1.5"``, ``"1.5s"`` or ``"80ms"`` as seconds; ``"0.4x"`` as a fraction of the dense step.

    Returns:
        The number, and whether it is a fraction.

    Raises:
        InputError: neither.
    """
    units = {"ms": (1e-3, False), "x": (1.0, True), "s": (1.0, False), "": (1.0, False)}
    for unit, (factor, is_fraction) in units.items():
        if text.endswith(unit):
            try:
                value = factor * float(text.removesuffix(unit))
            except ValueError:
                continue
            if 0 < value < float("inf"):
                return value, is_fraction
    raise InputError(
        f"target step time is {text!r}; it must be seconds above 0 such as 0.25, 250ms or 1.5s, or "
        f"a fraction of the dense step such as 0.4x"
    )


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

    def _planned(
        self,
        levels: BlockLevels,
        target_s: float,
        solver: str,
        seed: int,
        time_limit_s: float | None,
    ) -> tuple[Plan, float] | None:
        """The plan of some levels, and the seconds of its step; None where they hold none."""
        budget = Budget(
            patterns=1 if self.aligned else None,
            levels=levels,
            target_step_s=target_s,
            coverage=self.coverage,
        )
        formulation = formulate(self.deployment, self.scores, budget)
        if self.coverage and time_limit_s is None:
            time_limit_s = COVERING_S
        solution = solve_formulation(formulation, solver, time_limit_s=time_limit_s, seed=seed)
        if solution.schedule is None and self.coverage:
            return None
        plan = plan_from_solution(self.deployment, budget, solution, seed=seed)
        return plan, simulate_plan(plan).step_s


def target_searches(
    deployments: Sequence[Deployment],
    scores: Scores,
    *,
    aligned: bool | None = None,
    coverage: int = 0,
) -> list[TargetSearch]:
    """A search per deployment, and per way of aligning where a device shares messages.

    Args:
        deployments: of one workload on one cluster, placed otherwise.
        scores, coverage: as for `TargetSearch`.
        aligned: as of `TargetSearch`; None to try both.
    """
    return [
        TargetSearch(deployment, scores, way, coverage)
        for deployment in deployments
        for way in _ways(deployment, aligned)
    ]


def plan_for_target(
    deployments: Sequence[Deployment],
    scores: Scores,
    target_s: float,
    *,
    coverage: int = 0,
    aligned: bool | None = None,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """The plan of most retained score whose simulated step is at most `target_s`.

    Args:
        deployments: those to try, each of one replica: one workload on one cluster.
        scores: contribution of every subnet to every micro-batch.
        target_s: seconds of the simulated step.
        coverage: see `Budget`.
        aligned: as of `TargetSearch`; None to try both.
        solver: makes the final schedule within the levels found; the search for them uses "dp".
        seed: for solvers with random choices.
        time_limit_s: for the final solver.

    Raises:
        InputError: what no schedule can leave out takes longer than the target.
    """
    searches = target_searches(deployments, scores, aligned=aligned, coverage=coverage)
    return best_plan(searches, target_s, solver=solver, seed=seed, time_limit_s=time_limit_s)


def best_plan(
    searches: Sequence[TargetSearch],
    target_s: float,
    *,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
) -> Plan:
    """The best plan of several searches; arguments and errors as for `plan_for_target`."""
    least_s = min(search.fixed_s for search in searches)
    if least_s > target_s:
        raise InputError(
            f"target step time is {target_s:.4g} s; trunk, all-reduce and optimizer alone take "
            f"{least_s:.4g} s on cluster {searches[0].deployment.cluster.name!r} with all "
            f"micro-batches: ask for more than that, or for fewer of them"
        )
    plans = [
        plan
        for search in searches
        if (plan := search.plan(target_s, solver=solver, seed=seed, time_limit_s=time_limit_s))
    ]
    if not plans:
        coverage = searches[0].coverage
        covering = f" with a coverage of {coverage}" if coverage else ""
        raise InputError(
            f"no schedule was found whose step takes at most {target_s:.4g} s"
            f"{covering}; the least that trunk, all-reduce and optimizer take is {least_s:.4g} s"
        )
    return max(plans, key=lambda plan: plan.solver.objective)


def _ways(deployment: Deployment, aligned: bool | None) -> tuple[bool, ...]:
    """Values of `aligned` to try; both mean the same where no device shares messages."""
    if not deployment.shares_messages:
        return (False,)
    return (False, True) if aligned is None else (aligned,)


def _with_method(plan: Plan, step_s: float, target_s: float) -> Plan:
    text = f"levels for a step of {target_s:.4g} s, simulated {step_s:.4g} s"
    if step_s < target_s * (1 - TOLERANCE):
        is_dense = bool((plan.schedule == Operation.FULL).all())
        reason = "dense needs no more" if is_dense else "no levels that keep more score fit"
        text += f" ({1 - step_s / target_s:.1%} below: {reason})"
    return replace(plan, solver=replace(plan.solver, method=f"{plan.solver.method}; {text}"))
