"""From a request of the command line to a plan: placement first, then a budget or a step time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from analysis.names.placement_names import PlacementName
from analysis.planning.placing import Placed, place
from analysis.planning.request import Request
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.starved import starved_text
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True)
class Planned:
    """A plan and how it was placed.

    Attributes:
        plan: with the coverage that it was given, or got.
        placed: where it could have gone.
        target: what step time was asked for, "" for none.
    """

    plan: Plan
    placed: Placed
    target: str = ""

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
    aligned: bool | None = None,
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
        target_step_time: as `sim.target.target_search.parse_target` reads it; replaces the budget.
        aligned: see `Budget`; None for yes where a communication budget and shared messages ask
            for it. A target tries both.
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
            aligned=aligned,
            solver=solver,
            num_waves=num_waves,
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
    aligned: bool | None,
    solver: str,
    num_waves: int,
    seed: int,
    time_limit_s: float | None,
) -> Planned:
    """As `plan_request`, on placements that are known."""
    budget = request.budget
    if target_step_time is None:
        if aligned is None:
            aligned = is_better_aligned(budget, request.workload, placed.placements[0])
        plan = make_plan(
            request.workload,
            request.cluster,
            request.scores,
            replace(budget, aligned=aligned),
            solver=solver,
            placement=placed.placements[0],
            num_waves=num_waves,
            seed=seed,
            time_limit_s=time_limit_s,
        )
        return Planned(plan, placed)
    from sim.target.target_search import parse_target, plan_for_target

    value, is_fraction = parse_target(target_step_time)
    target_s = value * placed.dense_step_s if is_fraction else value
    plan = plan_for_target(
        request.workload,
        request.cluster,
        request.scores,
        target_s,
        placements=placed.placements,
        coverage=budget.coverage,
        aligned=aligned,
        solver=solver,
        num_waves=num_waves,
        seed=seed,
        time_limit_s=time_limit_s,
    )
    said = f"{target_s:.4g} s"
    if is_fraction:
        said += f" ({value:g} of the dense step of {placed.dense_step_s:.4g} s, {placement} placed)"
    return Planned(plan, placed, said)


def is_better_aligned(budget: Budget, workload: Workload, placement: Placement) -> bool:
    """Whether bytes are to be exact: they have a budget and subnets share messages."""
    return budget.communication < 1 and shares_messages(workload, placement)


def shares_messages(workload: Workload, placement: Placement) -> bool:
    """Whether a device holds several subnets of a block, which share their messages."""
    pairs = set(zip(workload.partition.block.tolist(), placement.subnet_device, strict=True))
    return len(pairs) < workload.num_subnets
