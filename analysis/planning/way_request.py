"""From a request of the command line to a plan on the best way, within a budget or a step time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from analysis.names.way_names import RestingName, WayName
from analysis.planning.plan_request import check_target_alone
from analysis.planning.request import Request
from d2ft_sched.plan.planning import check_solver
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.starved import starved_text
from sim.target.target_plan import parse_target
from sim.ways.plans import plan_on_ways
from sim.ways.search import WaySearch, best_dense, search_ways
from sim.ways.target import plan_for_target_on_ways
from sim.ways.way_plan import WayPlan

REST = "rest"
"""Method of plans in which heads or blocks rest."""
WAYS = "ways"
"""Solver's name in plans that are no schedule by scores."""


@dataclass(frozen=True, eq=False)
class PlannedOnWay:
    """A plan on the best way.

    Attributes:
        found: with the plan; its budget says how what rests is chosen.
        search: of the ways.
        target: what step time was asked for, "" for none.
    """

    found: WayPlan
    search: WaySearch
    target: str = ""

    @property
    def starved(self) -> str:
        """What the plan keeps from some samples that it runs, in words; "" for nothing."""
        plan = self.found.plan
        if self.found.method != "scores":
            return ""
        return starved_text(plan.schedule, plan.workload.partition.block)


def plan_on_way(
    request: Request,
    way: WayName | None = None,
    *,
    target_step_time: str | None = None,
    resting: RestingName | None = None,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
    stage: Callable[[str], None] = lambda title: None,
    search: WaySearch | None = None,
) -> PlannedOnWay:
    """Search ways, then plan on the best.

    Args:
        request: model, cluster, scores and budget.
        way: the only kind to look at; None for all.
        target_step_time: as `sim.target.target_plan.parse_target` reads it, a fraction being of
            the best dense step; replaces the budget.
        resting: how a training chooses what rests; None for drawn.
        solver, seed, time_limit_s: as for `sim.ways.plans.plan_on_ways`.
        stage: is told what is begun.
        search: of the same workload, cluster and way, if there is one already.

    Raises:
        InputError: a budget and a target, no way fits, or no plan is as fast as the target.
    """
    check_target_alone(request.budget, target_step_time)
    check_solver(solver)
    if search is None:
        stage("searching ways")
        kinds = None if way is None else [way.kind]
        search = search_ways(request.workload, request.cluster, kinds=kinds)
    stage("planning on them")

    if target_step_time is None:
        found = plan_on_ways(
            request.workload,
            request.cluster,
            request.scores,
            request.budget,
            solver=solver,
            seed=seed,
            time_limit_s=time_limit_s,
            search=search,
        )
        return PlannedOnWay(_recorded(found, resting), search)
    value, is_fraction = parse_target(target_step_time)
    dense = best_dense(search)
    target_s = value * dense.dense_step_s if is_fraction else value
    found = plan_for_target_on_ways(
        request.workload,
        request.cluster,
        request.scores,
        target_s,
        solver=solver,
        seed=seed,
        time_limit_s=time_limit_s,
        search=search,
    )
    said = f"{target_s:.4g} s"
    if is_fraction:
        said += f" ({value:g} of the best dense step of {dense.dense_step_s:.4g} s)"
    return PlannedOnWay(_recorded(found, resting), search, said)


def _recorded(found: WayPlan, resting: RestingName | None) -> WayPlan:
    """With what a training lets rest in the plan's budget."""
    chosen = (resting or RestingName.DRAWN).value if found.method == REST else None
    budget = replace(found.plan.budget, resting=chosen)
    return replace(found, plan=replace(found.plan, budget=budget))


def is_on_way(plan: Plan) -> bool:
    """Whether a plan was made on the best way, not placed by name: by its replicas and record."""
    return plan.solver.name == WAYS or len(plan.replicas) > 1
