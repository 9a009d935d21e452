"""What every saving of a plan is held against: the best dense way, and fewer samples."""

from dataclasses import dataclass
from typing import Any

from analysis.planning.step_totals import StepTotals, step_totals
from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation
from sim.ways.candidates import most_within
from sim.ways.estimate.load import dense_load
from sim.ways.estimate.steps import Groups
from sim.ways.fewer import fewest_beside, samples_of_compute
from sim.ways.search import (
    WaySearch,
    best_dense,
    best_replicas,
    search_ways,
    shown,
    way_of,
)
from sim.ways.way import Way

PARTS = (4, 16)
"""Samples of the mini-batch over those for which ways are searched that may be short enough."""


@dataclass(frozen=True, eq=False)
class Baselines:
    """What needs no planner.

    Attributes:
        search: all ways.
        best_dense: the least dense step that fits; None where none does.
        fewer: dense on the samples that the plan's FLOPs suffice for, in their own best way; None
            where none fits.
        as_short: dense on the most samples whose step is at most as long as the plan's, in their
            own best way; None where one sample takes longer, or none fits.
    """

    search: WaySearch
    best_dense: Way | None
    fewer: Way | None
    as_short: Way | None


def baselines(plan: Plan, step_s: float) -> Baselines:
    """Baselines of a plan, on its cluster.

    Args:
        plan: whose mini-batch and FLOPs they have.
        step_s: of the plan.
    """
    search = search_ways(plan.workload, plan.cluster)
    return Baselines(
        search,
        fitting_dense(search),
        fewer_of_compute(search, plan),
        samples_within(search, step_s),
    )


def fitting_dense(search: WaySearch) -> Way | None:
    """The least dense step that fits; None where none does."""
    try:
        return best_dense(search)
    except InputError:
        return None


def fewer_of_compute(search: WaySearch, plan: Plan) -> Way | None:
    """Dense on the samples that a plan's FLOPs suffice for, one at the least, or on one more where
    that is quicker, in their own best way; None where memory does not suffice."""
    number = samples_of_compute(plan, plan.schedule)
    try:
        return fewest_beside(search, number)
    except InputError:
        return None


def samples_within(search: WaySearch, step_s: float) -> Way | None:
    """Dense on the most samples in a step of at most so long; None where not even on one."""
    steps, total = search.steps, search.steps.num_samples
    tried: dict[Groups, None] = dict.fromkeys(way.groups for way in search.ways)
    for part in PARTS:
        load = dense_load(search.workload, max(1, total // part))
        found = shown(steps, best_replicas(steps, load, search.kinds))
        tried.update(dict.fromkeys(one.groups for one in found))
    every = dense_load(search.workload)
    made = [most_within(steps, groups, every, 1, step_s) for groups in tried]
    best = max(
        (found for found in made if found is not None),
        key=lambda found: (found.num_samples, -found.step_s),
        default=None,
    )
    if best is None:
        return None
    load = dense_load(search.workload, best.num_samples)
    return way_of(steps, steps.priced(best.groups, best.samples, load))


def way_record(way: Way) -> dict[str, Any]:
    """A way as plain values."""
    return {
        "name": str(way.name),
        "replicas": [list(names) for names in way.device_names],
        "samples": list(way.samples),
        "dense_step_s": way.dense_step_s,
        "exchange_bytes": way_totals(way).exchange_bytes,
        "fits": way.fits,
    }


def way_totals(way: Way) -> StepTotals:
    """FLOPs and bytes of its dense step."""
    return step_totals(way, way.uniform(Operation.FULL))
