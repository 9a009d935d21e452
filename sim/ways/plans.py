"""Plans within a budget on the ways where they are fastest."""

import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan import Plan, SolverRecord
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.starved import starved_microbatches
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_to_rows
from sim.ways.candidates import Candidate, candidate, kept_value, most_within
from sim.ways.deal import Dealt
from sim.ways.fewer import fewest
from sim.ways.load import Load, dense_load, most_samples
from sim.ways.price import price
from sim.ways.redeal import redealt_scores
from sim.ways.search import WaySearch, best_dense, best_replicas, search_ways, shown
from sim.ways.steps import Groups
from sim.ways.way import Way, WayKind, kind_of

SHORTER = 0.01
"""Part of the step that rest must save to be chosen where messages have no budget."""
RESTING = (0.25, 0.5, 0.75)
"""Fractions of the blocks that train, where messages have no budget."""
BETTER = 0.01
"""Relative excess of kept score for which a schedule by scores is chosen."""


@dataclass(frozen=True, eq=False)
class WayRow:
    """A line of the table of ways.

    Attributes:
        name: kind of the way.
        replicas: names of each replica's devices.
        samples: of the mini-batch that each replica is dealt in the dense step.
        dense_step_s: predicted seconds with every operation FULL.
        plan_step_s: of the plan on these replicas; None where memory does not suffice.
        peak_memory_bytes: of the fullest device in the dense step.
        fits: whether the dense step fits every device.
        chosen: whether the plan is on this way.
    """

    name: WayKind
    replicas: tuple[tuple[str, ...], ...]
    samples: tuple[int, ...]
    dense_step_s: float
    plan_step_s: float | None
    peak_memory_bytes: float
    fits: bool
    chosen: bool


@dataclass(frozen=True, eq=False)
class WayPlan:
    """A plan and what it is held against.

    Attributes:
        plan: to be run.
        method: "dense", "fewer samples", "rest" or "scores".
        step_s: its predicted step.
        samples: of the mini-batch that each replica runs.
        kept_score: its value over that of the dense step, where rest counts as forward alone.
        best_dense: the least dense step of any way.
        fewer: fewer samples of the same compute, in their own best way.
        table: ways, the fastest dense step first.
        lower_bound_s: of any dense step.
    """

    plan: Plan
    method: str
    step_s: float
    samples: tuple[int, ...]
    kept_score: float
    best_dense: Way
    fewer: Way
    table: tuple[WayRow, ...]
    lower_bound_s: float


def plan_on_ways(
    workload: Workload,
    cluster: Cluster,
    scores: Scores,
    budget: Budget,
    *,
    kinds: Collection[WayKind | str] | None = None,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
    search: WaySearch | None = None,
) -> WayPlan:
    """The plan within a budget whose step is never longer than that of fewer samples.

    It is one of: the dense step, where the budget is whole; fewer samples, each of them through
    everything; rest, where only some blocks train, drawn by the seed, and more samples run for the
    same FLOPs; a schedule by scores, where the best dense way has one replica. Rest is chosen where
    messages have a budget or it makes the step shorter, else what keeps most score.

    Args:
        workload: model, partition and mini-batch; ways deal its samples anew.
        cluster: devices and links.
        scores: contribution of every subnet to every micro-batch of `workload`.
        budget: `compute` of the subnets' dense FLOPs, `communication` of the bytes of the subnets'
            gradients (of messages, too, where a schedule by scores is tried).
        kinds: of ways to look at; default all.
        solver: for a schedule by scores.
        seed: of what rests, and of solvers with random choices.
        time_limit_s: for the solver.
        search: of the same workload and cluster, if there is one already.

    Raises:
        InputError: an input does not fit, or memory does not suffice for any way.
    """
    begin = time.perf_counter()
    known = search_ways(workload, cluster, kinds=kinds) if search is None else search
    dense = best_dense(known)
    fewer = fewest(known, most_samples(workload, dense_load(workload).trains, budget.compute))
    chosen = _chosen(known, dense, fewer, scores, budget, solver, seed, time_limit_s)
    if chosen.step_s > fewer.dense_step_s:
        raise AssertionError("a plan is slower than fewer samples")
    values = redealt_scores(
        scores, workload.microbatch_samples, chosen.workload.microbatch_samples
    ).values()
    every = np.full_like(chosen.schedule, Operation.FULL)
    objective, most = kept_value(values, chosen.schedule), kept_value(values, every)
    plan = Plan(
        workload=chosen.workload,
        cluster=cluster,
        replicas=chosen.replicas,
        budget=budget,
        solver=SolverRecord(
            name="ways" if chosen.method != "scores" else solver,
            method=chosen.method,
            status="FEASIBLE",
            objective=objective,
            upper_bound=None,
            build_s=0.0,
            solve_s=time.perf_counter() - begin,
        ),
        schedule_rows=tuple(schedule_to_rows(chosen.schedule)),
        provenance=provenance(seed),
    )
    return WayPlan(
        plan=plan,
        method=chosen.method,
        step_s=chosen.step_s,
        samples=chosen.samples,
        kept_score=objective / most if most else 1.0,
        best_dense=dense,
        fewer=fewer,
        table=way_table(known, chosen),
        lower_bound_s=known.lower_bound_s,
    )


def _chosen(
    search: WaySearch,
    dense: Way,
    fewer: Way,
    scores: Scores,
    budget: Budget,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate:
    steps, limit_s = search.steps, fewer.dense_step_s
    load = dense_load(search.workload, sum(fewer.samples))
    plain = candidate(steps, steps.priced(fewer.groups, fewer.samples, load))
    if budget.compute == 1 and budget.communication == 1:
        return plain
    rested = [
        found
        for fraction in (RESTING if budget.communication == 1 else (budget.communication,))
        if (found := _rest(search, fewer, fraction, budget.compute, seed)) is not None
    ]
    if budget.communication == 1:
        rested = [found for found in rested if found.step_s <= limit_s * (1 - SHORTER)]
    if rested:
        return min(rested, key=lambda found: found.step_s)
    scored = None
    if len(dense.replicas) == 1:
        scored = _by_scores(search, dense, scores, budget, solver, seed, time_limit_s)
    if scored is not None and scored.step_s <= limit_s:
        values = redealt_scores(
            scores, search.workload.microbatch_samples, scored.workload.microbatch_samples
        ).values()
        every = np.full_like(scored.schedule, Operation.FULL)
        kept = kept_value(values, scored.schedule) / kept_value(values, every)
        if kept > (1 + BETTER) * plain.num_samples / steps.num_samples:
            return scored
    return plain


def trained_blocks(num_blocks: int, fraction: float, seed: int) -> tuple[bool, ...]:
    """Which blocks train, drawn: so large a part of them, rounded down, at least one."""
    number = max(1, int(fraction * num_blocks * (1 + 1e-12)))
    drawn = np.random.default_rng(seed).permutation(num_blocks)[:number]
    return tuple(np.isin(np.arange(num_blocks), drawn).tolist())


def _rest(
    search: WaySearch, fewer: Way, fraction: float, compute: float, seed: int
) -> Candidate | None:
    """The plan of most samples with so large a part of the blocks trained, on its own best replicas
    or on those of fewer samples, not slower than these."""
    steps, least = search.steps, sum(fewer.samples)
    trains = trained_blocks(search.workload.shape.num_blocks, fraction, seed)
    load = Load(most_samples(search.workload, trains, compute), trains)
    own = shown(steps, best_replicas(steps, load, search.kinds))
    tried = dict.fromkeys([*(found.groups for found in own[:2]), fewer.groups])
    made = [
        found
        for groups in tried
        if (found := most_within(steps, groups, load, least, fewer.dense_step_s)) is not None
    ]
    return max(made, key=lambda found: (found.num_samples, -found.step_s), default=None)


def _by_scores(
    search: WaySearch,
    way: Way,
    scores: Scores,
    budget: Budget,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate | None:
    """A schedule by scores on the only replica of a way; None where there is none, or samples would
    pass through nothing."""
    given = search.workload.microbatch_samples
    dealt = redealt_scores(scores, given, way.workload.microbatch_samples)
    replica = way.replicas[0]
    try:
        plan = make_plan(
            way.workload,
            way.cluster,
            dealt,
            budget,
            solver=solver,
            placement=replica.placement,
            num_waves=replica.num_waves,
            seed=seed,
            time_limit_s=time_limit_s,
        )
    except InputError:
        return None
    if len(starved_microbatches(plan.schedule, way.workload.partition.block)):
        return None
    runs = np.ones(way.workload.num_microbatches, dtype=bool)
    priced = price(
        way.cluster,
        Dealt(way.workload, way.replicas, runs),
        plan.schedule,
        budget.compute * way.dense_step_s,
    )
    return Candidate("scores", way.workload, way.replicas, plan.schedule, way.samples, priced)


def way_table(search: WaySearch, chosen: Candidate) -> tuple[WayRow, ...]:
    """Every way of a search beside the plan that was chosen, and that plan's load on it."""
    steps, trains = search.steps, _trains(chosen)
    load = Load(chosen.num_samples, trains)
    ways = list(search.ways)
    if all(way.groups != chosen.groups for way in ways):
        found = steps.level(chosen.groups, dense_load(search.workload))
        if found is not None:
            from sim.ways.search import way_of

            ways.append(way_of(steps, found))
    rows = []
    for way in sorted(ways, key=lambda way: (not way.fits, way.dense_step_s)):
        is_chosen = way.groups == chosen.groups
        plan_step_s: float | None = chosen.step_s
        if not is_chosen:
            found = steps.level(way.groups, load)
            plan_step_s = None if found is None else candidate(steps, found).step_s
        rows.append(
            WayRow(
                name=kind_of(way.groups),
                replicas=way.device_names,
                samples=way.samples,
                dense_step_s=way.dense_step_s,
                plan_step_s=plan_step_s,
                peak_memory_bytes=float(way.peak_memory_bytes.max()),
                fits=way.fits,
                chosen=is_chosen,
            )
        )
    return tuple(rows)


def _trains(chosen: Candidate) -> tuple[bool, ...]:
    """Which blocks train in a plan."""
    block = chosen.workload.partition.block
    trained = (chosen.schedule == Operation.FULL).any(axis=1)
    return tuple(bool(trained[block == b].any()) for b in range(block.max() + 1))


__all__ = ["Groups", "WayPlan", "WayRow", "plan_on_ways", "way_table"]
