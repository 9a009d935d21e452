"""From a request of the command line to a plan: placement first, then a budget or a step time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from analysis.names.placement_names import PlacementName
from analysis.planning.placing import Placed, place
from analysis.planning.request import Request
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.starved import starved_text
from sim.step import simulate_plan

Patterns = int | Literal["any", "auto"] | None
"""The most patterns of a block on a device (see `Budget`), any number, or as many as pay: fewer
where they save a larger share of the step time than of the score. None for 1 where a communication
budget and shared messages ask for it, else any."""

MOST_TRIED = 6
"""Numbers of patterns that ``auto`` tries, any number besides."""


def parse_patterns(text: str) -> Patterns:
    """As ``--patterns`` takes them.

    Raises:
        InputError: neither a number from 1 nor a word that is known.
    """
    if text == "any":
        return "any"
    if text == "auto":
        return "auto"
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise InputError(f"--patterns is {text!r}; it must be a number from 1, any, or auto")


@dataclass(frozen=True)
class PatternsTried:
    """A plan of so many patterns.

    Attributes:
        patterns: the most that there may be; None for any number.
        value: its score, as a fraction of that with any number.
        step_s: predicted.
    """

    patterns: int | None
    value: float
    step_s: float


@dataclass(frozen=True)
class Planned:
    """A plan and how it was placed.

    Attributes:
        plan: with the coverage that it was given, or got.
        placed: where it could have gone.
        target: what step time was asked for, "" for none.
        tried: numbers of patterns that were planned for, where some were asked for: any number
            first, then from few to many.
    """

    plan: Plan
    placed: Placed
    target: str = ""
    tried: tuple[PatternsTried, ...] = ()

    @property
    def starved(self) -> str:
        """What the plan keeps from some samples, in words; "" for nothing."""
        return starved_text(self.plan.schedule, self.plan.workload.partition.block)


COVERING_SOLVERS = ("dp", "lagrangian", "mip", "scip", "highs", "cp_sat")
"""Those that are asked for a coverage where a plan would starve a micro-batch."""


def plan_request(
    request: Request,
    placement: PlacementName,
    *,
    target_step_time: str | None = None,
    patterns: Patterns = None,
    solver: str = "dp",
    num_waves: int = 1,
    seed: int = 0,
    time_limit_s: float | None = None,
    may_starve: bool = False,
    stage: Callable[[str], None] = lambda title: None,
) -> Planned:
    """Place, then plan; anew with a coverage of 1 where a micro-batch passes no subnet of a block.

    Args:
        request: model, cluster, scores and budget.
        placement: how to place.
        target_step_time: as `sim.target.target_plan.parse_target` reads it; replaces the budget.
        patterns: of a block on a device. A target tries 1 and any number unless told which.
        solver, num_waves, seed, time_limit_s: as for `make_plan`.
        may_starve: whether a plan without that coverage will do; one of a solver that knows no
            coverage always will.
        stage: is told what is begun.

    Raises:
        InputError: a budget and a target, no plan covers every block, or what `make_plan` and
            `plan_for_target` refuse.
    """
    budget = request.budget
    check_target_alone(budget, target_step_time)
    if target_step_time is not None and not budget.per_block:
        raise InputError("--target-step-time levels every block; leave --per-device out")
    stage("placing subnets and micro-batches")
    placed = place(placement, request.workload, request.cluster, num_waves)
    stage(f"solving with {solver}")

    def planned(coverage: int) -> Planned:
        return _plan_placed(
            replace(request, budget=replace(budget, coverage=coverage)),
            placement,
            placed,
            target_step_time=target_step_time,
            patterns=patterns,
            solver=solver,
            seed=seed,
            time_limit_s=time_limit_s,
        )

    first = planned(budget.coverage)
    if may_starve or not first.starved or solver not in COVERING_SOLVERS:
        return first
    try:
        return planned(1)
    except InputError as error:
        raise InputError(
            f"{first.starved}, and no plan was found in which all of them pass every block "
            f"({error}); ask for more, for fewer micro-batches, or for this with --coverage 0"
        ) from None


def check_target_alone(budget: Budget, target_step_time: str | None) -> None:
    """Refuse a budget beside a step time.

    Raises:
        InputError: there are both.
    """
    fractions = (budget.compute, budget.communication, budget.memory)
    if target_step_time is not None and fractions != (1, 1, 1):
        raise InputError(
            "--target-step-time sets the capacities by itself; leave --budget-compute, "
            "--budget-comm and --budget-memory out"
        )


def _plan_placed(
    request: Request,
    placement: PlacementName,
    placed: Placed,
    *,
    target_step_time: str | None,
    patterns: Patterns,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Planned:
    """As `plan_request`, on placements that are known."""
    budget = request.budget
    if target_step_time is None:

        def made(most: int | None) -> Plan:
            return make_plan(
                placed.deployments[0],
                request.scores,
                replace(budget, patterns=most),
                solver=solver,
                seed=seed,
                time_limit_s=time_limit_s,
            )

        if patterns is None:
            is_aligned = is_better_aligned(budget, placed.deployments[0])
            patterns = 1 if is_aligned else "any"
        if patterns == "any":
            return Planned(made(None), placed)
        numbers = [patterns] if isinstance(patterns, int) else _numbers(placed.deployments[0])
        plans = {most: made(most) for most in (None, *numbers)}
        tried = tuple(_tried(plan, plans[None]) for plan in plans.values())
        best = tried[-1]
        if patterns == "auto":
            best = max(tried, key=lambda one: one.value / one.step_s)
        return Planned(plans[best.patterns], placed, tried=tried)
    if patterns not in (None, 1, "any"):
        raise InputError(
            f"--patterns is {patterns} beside --target-step-time, which keeps the most score in "
            f"that time with 1 or any: leave it out, or give one of these"
        )
    from sim.target.target_plan import parse_target, plan_for_target

    value, is_fraction = parse_target(target_step_time)
    target_s = value * placed.dense_step_s if is_fraction else value
    plan = plan_for_target(
        placed.deployments,
        request.scores,
        target_s,
        coverage=budget.coverage,
        aligned=None if patterns is None else patterns == 1,
        solver=solver,
        seed=seed,
        time_limit_s=time_limit_s,
    )
    said = f"{target_s:.4g} s"
    if is_fraction:
        said += f" ({value:g} of the dense step of {placed.dense_step_s:.4g} s, {placement} placed)"
    return Planned(plan, placed, said)


def _numbers(deployment: Deployment) -> list[int]:
    """Of patterns that may pay: all below the most subnets of a block on a device, or a spread."""
    block = deployment.workload.partition.block.tolist()
    sites = zip(block, deployment.placement.subnet_device, strict=True)
    most = max(Counter(sites).values())
    return sorted({1 + (most - 1) * i // MOST_TRIED for i in range(MOST_TRIED)})


def _tried(plan: Plan, free: Plan) -> PatternsTried:
    value, whole = plan.solver.objective, free.solver.objective
    share = value / whole if whole > 0 else 1.0
    return PatternsTried(plan.budget.patterns, share, simulate_plan(plan).step_s)


def is_better_aligned(budget: Budget, deployment: Deployment) -> bool:
    """Whether bytes are to be exact: they have a budget and subnets share messages."""
    return budget.communication < 1 and deployment.shares_messages
