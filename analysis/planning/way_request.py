"""From a request of the command line to a plan on the best way, within a budget or a step time."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from analysis.names.way_names import RestingName, WayName
from analysis.planning.plan_request import check_target_alone
from analysis.planning.request import Request
from d2ft_sched.errors import InputError
from d2ft_sched.problem.starved import starved_text
from sim.target.target_search import parse_target
from sim.ways.fewer import fewest
from sim.ways.plans import WayPlan, plan_on_ways
from sim.ways.search import WaySearch, best_dense, search_ways

REST = "rest"
"""Method of plans in which blocks rest."""
PROBES = 4
"""Plans of more samples that are tried for a step time, where rest makes room for them."""


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
) -> PlannedOnWay:
    """Search ways, then plan on the best.

    Args:
        request: model, cluster, scores and budget.
        way: the only kind to look at; None for all.
        target_step_time: as `sim.target.target_search.parse_target` reads it, a fraction being of
            the best dense step; replaces the budget.
        resting: how a training chooses what rests; None for drawn.
        solver, seed, time_limit_s: as for `sim.ways.plans.plan_on_ways`.
        stage: is told what is begun.

    Raises:
        InputError: a budget and a target, no way fits, or no plan is as fast as the target.
    """
    check_target_alone(request.budget, target_step_time)
    stage("searching ways")
    search = search_ways(
        request.workload, request.cluster, kinds=None if way is None else [way.kind]
    )
    stage("planning on them")

    def planned(compute: float | None = None) -> WayPlan:
        budget = request.budget
        if compute is not None:
            budget = replace(budget, compute=compute)
        return plan_on_ways(
            request.workload,
            request.cluster,
            request.scores,
            budget,
            solver=solver,
            seed=seed,
            time_limit_s=time_limit_s,
            search=search,
        )

    if target_step_time is None:
        return PlannedOnWay(_with_budget(planned(), resting, None), search)
    value, is_fraction = parse_target(target_step_time)
    dense = best_dense(search)
    target_s = value * dense.dense_step_s if is_fraction else value
    found = _within(search, planned, target_s)
    said = f"{target_s:.4g} s"
    if is_fraction:
        said += f" ({value:g} of the best dense step of {dense.dense_step_s:.4g} s)"
    return PlannedOnWay(_with_budget(found, resting, target_s), search, said)


def _with_budget(
    found: WayPlan, resting: RestingName | None, target_step_s: float | None
) -> WayPlan:
    chosen = (resting or RestingName.DRAWN).value if found.method == REST else None
    budget = replace(found.plan.budget, resting=chosen, target_step_s=target_step_s)
    return replace(found, plan=replace(found.plan, budget=budget))


def _within(search: WaySearch, planned: Callable[[float], WayPlan], target_s: float) -> WayPlan:
    """The plan of most samples whose step takes at most so long."""
    total = search.steps.num_samples
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        if fewest(search, middle).dense_step_s <= target_s:
            low = middle
        else:
            high = middle - 1
    found = planned(max(low, 1) / total)
    if found.step_s > target_s:
        raise InputError(
            f"the target step time is {target_s:.4g} s; a step of "
            f"{_counted(sum(found.samples), 'sample')} takes {found.step_s:.4g} s: ask for more"
        )
    best, low, high = found, max(low, 1), total
    for _ in range(PROBES if found.method == REST else 0):
        middle = (low + high + 1) // 2
        if middle == low:
            break
        more = planned(middle / total)
        if more.step_s <= target_s:
            best, low = more, middle
        else:
            high = middle - 1
    return best


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
