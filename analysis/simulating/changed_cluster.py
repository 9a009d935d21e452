"""What-if questions of the command line: changed clusters, and plans made anew for what is left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.names.placement_names import PlacementName
from analysis.names.way_names import RestingName
from analysis.planning.plan_request import plan_request
from analysis.planning.plan_summary import device_names
from analysis.planning.request import Request
from analysis.planning.way_request import is_on_way, plan_on_way
from analysis.planning.way_tables import names_text
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import load_scores, uniform_scores
from d2ft_sched.schedule.placement import place_round_robin
from sim.questions.what_if import drop_devices, scale_bandwidth, scale_compute, scale_latency
from sim.ways.way import kind_of

Scale = Callable[[Cluster, float, str | None], Cluster]


@dataclass(frozen=True)
class Changes:
    """What is to be different, each as written after its option: ``"2"`` or ``"NAME=2"``.

    Attributes:
        bandwidth, latency: of links, see `sim.questions.what_if.links_called`.
        compute: of devices.
        dropped: names of devices.
    """

    bandwidth: Sequence[str] = ()
    latency: Sequence[str] = ()
    compute: Sequence[str] = ()
    dropped: Sequence[str] = ()

    def apply(self, cluster: Cluster) -> Cluster:
        """The cluster with all changes.

        Raises:
            InputError: a factor or name is wrong; one line with the names that there are.
        """
        for option, scale, texts in (
            ("--scale-bandwidth", scale_bandwidth, self.bandwidth),
            ("--scale-latency", scale_latency, self.latency),
            ("--scale-compute", scale_compute, self.compute),
        ):
            for text in texts:
                cluster = _scaled(cluster, option, scale, text)
        return drop_devices(cluster, self.dropped) if self.dropped else cluster

    def describe(self) -> tuple[str, ...]:
        """In words, one part for each change."""
        said = [
            f"{what} of {name or 'all ' + everything} x {factor}"
            for what, everything, texts in (
                ("bandwidth", "links", self.bandwidth),
                ("latency", "links", self.latency),
                ("compute", "devices", self.compute),
            )
            for name, _, factor in (text.rpartition("=") for text in texts)
        ]
        return (*said, *(f"without {name}" for name in self.dropped))


def _scaled(cluster: Cluster, option: str, scale: Scale, text: str) -> Cluster:
    name, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        raise InputError(
            f"{option} is {text!r}; it must be a factor such as 2, or NAME=2 for one of them"
        ) from None
    return scale(cluster, factor, name or None)


@dataclass(frozen=True)
class Replanned:
    """A plan that was made anew.

    Attributes:
        plan: the plan.
        text: where it runs.
    """

    plan: Plan
    text: str


def plan_again(plan: Plan, cluster: Cluster, scores_file: Path | None, seed: int) -> Replanned:
    """A plan of the same request on another cluster, with other devices.

    Model, partition, mini-batch, budget or target step time, solver and waves are the plan's. One
    that was made on the best way is made on the best way again; another is placed in turn if it
    was, else balanced.

    Args:
        plan: that was made for more devices.
        cluster: what is left.
        scores_file: the scores that the plan was made with, which it does not hold; None to let all
            subnets and micro-batches count alike.
        seed: for solvers with random choices.

    Raises:
        InputError: the model does not fit what is left, or no schedule does.
    """
    workload, budget = plan.workload, plan.budget
    size = (workload.num_subnets, workload.num_microbatches)
    target_s = budget.target_step_s
    request = Request(
        workload,
        cluster,
        load_scores(scores_file, *size) if scores_file else uniform_scores(*size),
        Budget() if target_s else replace(budget, levels=None, resting=None),
    )
    target = repr(target_s) if target_s else None
    if is_on_way(plan):
        resting = RestingName(budget.resting) if budget.resting else None
        on_way = plan_on_way(request, target_step_time=target, resting=resting, seed=seed)
        made = on_way.found.plan
        kind = kind_of(tuple(replica.devices for replica in made.replicas))
        return Replanned(made, f"{kind} on {names_text(device_names(made))}")
    in_turn = place_round_robin(workload.partition, size[1], len(plan.cluster.devices))
    planned = plan_request(
        request,
        PlacementName.ROUND_ROBIN if plan.placement == in_turn else PlacementName.BALANCED,
        target_step_time=target,
        patterns=budget.patterns or "any",
        solver=plan.solver.name,
        num_waves=plan.num_waves,
        seed=seed,
    )
    taken = planned.plan.placement
    return Replanned(planned.plan, planned.placed.describe(len(cluster.devices), taken))
