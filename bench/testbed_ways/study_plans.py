"""Plans on several ways of one cluster: dense, fewer samples, and blocks that rest."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.resting import drawn, in_turns
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.schedule import schedule_to_rows
from sim.ways.candidates import Candidate, candidate
from sim.ways.estimate.load import Load, dense_load, load_of, most_samples
from sim.ways.plans import as_candidate, plan_on_ways
from sim.ways.search import best_dense, search_ways
from sim.ways.way import kind_of

Groups = tuple[tuple[int, ...], ...]

BEST_DENSE, FEWER, CHOSEN = "best dense way", "fewer samples, their best way", "the plan"


@dataclass(frozen=True, eq=False)
class StudyPlan:
    """A plan of the study.

    Attributes:
        name: of its file.
        way: kind of its way.
        load: what it does, in words.
        plan: to run.
        samples: that each replica runs.
    """

    name: str
    way: str
    load: str
    plan: Plan
    samples: tuple[int, ...]

    @property
    def devices(self) -> str:
        """Names of each replica's devices."""
        names = [d.name for d in self.plan.cluster.devices]
        return " | ".join("+".join(names[d] for d in r.devices) for r in self.plan.replicas)


def study_plans(
    workload: Workload, cluster: Cluster, groups: dict[str, Groups], budget: Budget, seed: int
) -> list[StudyPlan]:
    """The planner's own three first, then three of each of `groups` that are not there already.

    Args:
        workload: model and mini-batch.
        cluster: as measured.
        groups: devices of the replicas of more ways, by name.
        budget: of compute, and of the bytes of gradients.
        seed: of what rests.
    """
    search = search_ways(workload, cluster)
    size = (workload.num_subnets, workload.num_microbatches)
    found = plan_on_ways(workload, cluster, uniform_scores(*size), budget, seed=seed, search=search)
    made = [
        _study_plan(
            "best_dense", BEST_DENSE, as_candidate(search.steps, best_dense(search)), cluster
        ),
        _study_plan("fewer_samples", FEWER, as_candidate(search.steps, found.fewer), cluster),
        StudyPlan(
            "plan",
            str(kind_of(tuple(r.devices for r in found.plan.replicas))),
            CHOSEN,
            found.plan,
            found.samples,
        ),
    ]
    everything = np.ones(workload.num_subnets, dtype=bool)
    fewer = most_samples(workload, everything, budget.compute)
    loads = {
        "dense": dense_load(workload),
        "fewer samples": dense_load(workload, fewer),
        "rest, drawn": _resting(workload, budget, seed, drawn),
        "rest, in turns": _resting(workload, budget, seed, in_turns),
    }
    for index, (name, of_way) in enumerate(groups.items()):
        skipped = "rest, drawn" if index % 2 else "rest, in turns"
        for load, of_load in loads.items():
            levelled = search.steps.level(of_way, of_load)
            if load != skipped and levelled is not None:
                one = candidate(search.steps, levelled)
                file = f"{name}_{load}".replace(", ", "_").replace(" ", "_")
                made.append(_study_plan(file, load, one, cluster))
    first: dict[tuple[object, ...], StudyPlan] = {}
    for plan in made:
        first.setdefault(_content(plan), plan)
    return list(first.values())


def _content(one: StudyPlan) -> tuple[object, ...]:
    return one.devices, one.samples, one.plan.schedule.tobytes()


def _resting(
    workload: Workload,
    budget: Budget,
    seed: int,
    choose: Callable[[int, int, np.ndarray, float], np.ndarray],
) -> Load:
    blocks = choose(0, seed, np.ones(workload.shape.num_blocks), budget.communication)
    trains = blocks[workload.partition.block]
    return load_of(workload, most_samples(workload, trains, budget.compute), trains)


def _study_plan(name: str, load: str, made: Candidate, cluster: Cluster) -> StudyPlan:
    plan = Plan(
        workload=made.workload,
        cluster=cluster,
        replicas=made.replicas,
        budget=Budget(),
        solver=SolverRecord("ways", made.method, "FEASIBLE", 0.0, None, 0.0, 0.0),
        schedule_rows=tuple(schedule_to_rows(made.schedule)),
        provenance=provenance(0),
    )
    return StudyPlan(name, str(kind_of(made.groups)), load, plan, made.samples)
