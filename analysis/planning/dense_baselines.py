"""What every saving of a plan is held against: the best dense way, and fewer samples on theirs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_to_rows, uniform_schedule
from sim.ways.fewer import fewest
from sim.ways.search import WaySearch, best_dense, search_ways
from sim.ways.way import Way


@dataclass(frozen=True, eq=False)
class Baselines:
    """What needs no planner.

    Attributes:
        search: all ways.
        best_dense: the least dense step that fits; None where none does.
        as_short: dense on the most samples whose step is at most as long as the plan's, in their
            own best way; None where one sample takes longer, or none fits.
    """

    search: WaySearch
    best_dense: Way | None
    as_short: Way | None


def baselines(workload: Workload, cluster: Cluster, step_s: float) -> Baselines:
    """Baselines of a plan.

    Args:
        workload: the whole mini-batch.
        cluster: devices and links.
        step_s: of the plan.
    """
    search = search_ways(workload, cluster)
    try:
        dense = best_dense(search)
    except InputError:
        dense = None
    return Baselines(search, dense, samples_within(search, step_s))


def samples_within(search: WaySearch, step_s: float) -> Way | None:
    """Dense on the most samples in a step of at most so long; None where not even on one."""
    most = _most(search.steps.num_samples, lambda n: _least_s(search, n) <= step_s)
    return fewest(search, most) if most else None


def _least_s(search: WaySearch, num_samples: int) -> float:
    try:
        return fewest(search, num_samples).dense_step_s
    except InputError:
        return float("inf")


def _most(total: int, holds: Callable[[int], bool]) -> int:
    """The largest number up to `total` for which something holds that holds for all smaller ones;
    0 for none."""
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def dense_plan(plan: Plan, way: Way) -> Plan:
    """The dense step of a way, on a plan's cluster, as a plan."""
    workload = way.workload
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    return replace(
        plan,
        workload=workload,
        replicas=way.replicas,
        budget=Budget(),
        schedule_rows=tuple(schedule_to_rows(dense)),
    )


def way_record(way: Way) -> dict[str, Any]:
    """A way as plain values."""
    return {
        "name": str(way.name),
        "replicas": [list(names) for names in way.device_names],
        "samples": list(way.samples),
        "dense_step_s": way.dense_step_s,
        "fits": way.fits,
    }
