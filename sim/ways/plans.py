"""Plans within a budget on the ways where they are fastest."""

import time
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.starved import starved_microbatches
from sim.ways.candidates import MAX_CORRECTIONS, Candidate, as_candidate, most_within
from sim.ways.estimate.load import Load, dense_load, most_samples, sample_flops
from sim.ways.fewer import fewest, fewest_beside, samples_of_compute
from sim.ways.fewer_bytes import fewer_within_bytes
from sim.ways.price import price
from sim.ways.redeal import redealt_scores
from sim.ways.resting_loads import best_resting, resting_loads
from sim.ways.search import WaySearch, best_dense, best_replicas, search_ways, shown, way_of
from sim.ways.way import Way, WayKind
from sim.ways.way_plan import WayPlan, value_kept, way_plan

REST_PAYS = 0.25
"""Part of the step of fewer samples, for as many FLOPs, that rest must save to be chosen where
messages have no budget. From docs/results/rest: after as many steps it is less accurate; after as
many seconds, with steps shorter by 26 %, it was 4 points ahead at first and 2 behind later."""
SHORTER = 0.01
"""Part of the step that a plan must save to be taken in place of another that is as good."""
RESTING = (0.75, 0.5, 0.25)
"""Fractions of the subnets that train, where messages have no budget; a smaller one must save
`SHORTER` more."""
BETTER = 0.01
"""Relative excess of kept score for which a schedule by scores is chosen."""
MAX_TRIED = 2
"""Ways of most promise on which a load is planned, besides that of fewer samples."""


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
    """The plan within a budget whose step is never longer than that of fewer samples: as many as
    the budget, and of a plan with rest as many as the compute that it spends suffices for.

    It is one of: the dense step, where the budget is whole; fewer samples, each of them through
    everything; rest, where only some heads or blocks train, drawn by the seed, and more samples run
    for the same FLOPs; a schedule by scores, where the best dense way has one replica. Rest is
    chosen where messages have a budget or it makes the step shorter by `REST_PAYS`, else what keeps
    most score; of adapters only where fewer samples keep no budget of messages
    (`fewer_within_bytes`).

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
        search: of the same workload, cluster and kinds, if there is one already.

    Raises:
        InputError: an input does not fit, not one sample is within the budget, or memory does not
            suffice for any way.
    """
    begin = time.perf_counter()
    known = search_ways(workload, cluster, kinds=kinds) if search is None else search
    dense = best_dense(known)
    number = most_samples(workload, np.ones(workload.num_subnets, dtype=bool), budget.compute)
    _check_compute(workload, budget)
    is_whole = number == known.steps.num_samples
    fewer = dense if is_whole else fewest(known, number)
    plain = as_candidate(known.steps, fewer)
    chosen = plain
    if not is_whole or budget.communication < 1:
        chosen, fewer = _without_scores(known, fewer, plain, budget, seed)
        if chosen.method != "rest":
            scored = _scored_beside(
                known, dense, chosen, scores, budget, solver, seed, time_limit_s
            )
            chosen = chosen if scored is None else scored
    assert chosen.step_s <= plain.step_s, "a plan is slower than fewer samples"
    return way_plan(
        known,
        chosen,
        chosen.load or dense_load(workload, number),
        fewer,
        scores,
        budget,
        solver=solver,
        seed=seed,
        solve_s=time.perf_counter() - begin,
    )


def _check_compute(workload: Workload, budget: Budget) -> None:
    flops = sample_flops(workload)
    least = flops.subnets(dense_load(workload, 1)) / flops.subnets(dense_load(workload))
    if budget.compute < least * (1 - 1e-9):
        total = int(workload.samples.sum())
        raise InputError(
            f"the compute budget is {budget.compute:g} of the dense run; one of "
            f"{counted(total, 'sample')} through everything takes {least:.3g}: give at least that, "
            f"or a larger mini-batch"
        )


def _without_scores(
    search: WaySearch, fewer: Way, plain: Candidate, budget: Budget, seed: int
) -> tuple[Candidate, Way]:
    """Rest where it is chosen, else fewer samples, and what a plan is held against. Adapters rest
    only where fewer samples cannot keep a budget of messages."""
    steps = search.steps
    if search.workload.lora is not None:
        if budget.communication == 1:
            return plain, fewer
        within = fewer_within_bytes(search, fewer, budget.communication)
        if within is not None:
            load = dense_load(search.workload, within.num_samples)
            return within, way_of(steps, steps.priced(within.groups, within.samples, load))
    return _rest_beside(search, fewer, budget, seed) or (plain, fewer)


def _rest_beside(
    search: WaySearch, fewer: Way, budget: Budget, seed: int
) -> tuple[Candidate, Way] | None:
    """`_best_rest` that is not slower than fewer samples of the compute that it spends, either,
    and these. Where no such plan was found, and fewer samples send gradients that have a budget,
    one that is not slower than the given ones, beside them."""
    found, beside, first = _best_rest(search, fewer, budget, seed), fewer, None
    for _ in range(MAX_CORRECTIONS):
        if found is None:
            break
        spent = _of_spent(search, fewer, found)
        if found.step_s <= spent.dense_step_s:
            return found, spent
        first = first or (found, fewer)
        beside = min(beside, spent, key=lambda way: way.dense_step_s)
        found = _best_rest(search, beside, budget, seed)
    sends = budget.communication < 1 and len(fewer.replicas) > 1
    return first if sends else None


def _of_spent(search: WaySearch, fewer: Way, chosen: Candidate) -> Way:
    """Fewer samples of the compute that a plan spends, in their own best way: those given, where
    there are as many of them."""
    number = samples_of_compute(chosen, chosen.schedule)
    most = sum(fewer.samples)
    return fewer if number >= most else fewest_beside(search, number, most)


def _best_rest(search: WaySearch, fewer: Way, budget: Budget, seed: int) -> Candidate | None:
    """The best plan with rest that is not slower than fewer samples; where messages have no budget,
    one whose step is so much shorter that it pays."""
    if budget.communication < 1:
        return _rest(search, fewer, budget.communication, budget.compute, seed)
    flops = sample_flops(search.workload)
    every = flops.subnets(dense_load(search.workload, sum(fewer.samples)))
    best, limit_s = None, fewer.dense_step_s * (1 - REST_PAYS)
    for fraction in RESTING:
        found = _rest(search, fewer, fraction, budget.compute, seed)
        if found is None or found.load is None:
            continue
        as_much_s = found.step_s * max(1.0, every / flops.subnets(found.load))
        if as_much_s <= limit_s:
            best, limit_s = found, as_much_s * (1 - SHORTER)
    return best


def _rest(
    search: WaySearch, fewer: Way, fraction: float, compute: float, seed: int
) -> Candidate | None:
    """The plan of most samples with so large a part of the heads, or blocks, trained."""
    loads = resting_loads(search.workload, fraction, compute, seed)
    return best_resting(search.steps, loads, lambda load: _of_load(search, fewer, load), seed)


def _of_load(search: WaySearch, fewer: Way, load: Load) -> Candidate | None:
    """The plan of most samples of a load, on its own best replicas or on those of fewer samples,
    not slower than these."""
    steps = search.steps
    own = shown(steps, best_replicas(steps, load, search.kinds))
    tried = dict.fromkeys([*(found.groups for found in own[:MAX_TRIED]), fewer.groups])
    made = (
        most_within(steps, groups, load, sum(fewer.samples), fewer.dense_step_s) for groups in tried
    )
    return max(
        (found for found in made if found is not None),
        key=lambda found: (found.num_samples, -found.step_s),
        default=None,
    )


def _scored_beside(
    search: WaySearch,
    dense: Way,
    plain: Candidate,
    scores: Scores,
    budget: Budget,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate | None:
    """A schedule by scores that keeps clearly more than fewer samples and is not slower than these;
    else None."""
    compute = budget.compute
    share = plain.num_samples / search.steps.num_samples
    for _ in range(MAX_CORRECTIONS):
        tighter = replace(budget, compute=compute)
        scored = _by_scores(search, dense, scores, tighter, solver, seed, time_limit_s)
        if scored is None:
            return None
        kept, most = value_kept(search, scores, scored)
        if kept <= (1 + BETTER) * share * most:
            return None
        if scored.step_s <= plain.step_s:
            return scored
        compute *= plain.step_s / scored.step_s * (1 - SHORTER)
    return None


def _by_scores(
    search: WaySearch,
    way: Way,
    scores: Scores,
    budget: Budget,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate | None:
    """A schedule by scores on the only replica of a way, with a coverage where samples would else
    pass through nothing; None where it has several replicas, or there is no schedule."""
    if len(way.replicas) > 1:
        return None
    for coverage in dict.fromkeys((budget.coverage, max(1, budget.coverage))):
        covered = replace(budget, coverage=coverage)
        found = _covered_by_scores(search, way, scores, covered, solver, seed, time_limit_s)
        if found is not None:
            return found
    return None


def _covered_by_scores(
    search: WaySearch,
    way: Way,
    scores: Scores,
    budget: Budget,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate | None:
    given, dealt = search.workload.microbatch_samples, way.workload.microbatch_samples
    try:
        plan = make_plan(
            way,
            redealt_scores(scores, given, dealt),
            budget,
            solver=solver,
            seed=seed,
            time_limit_s=time_limit_s,
        )
    except InputError:
        return None
    return scored_candidate(way, plan)


def scored_candidate(way: Way, plan: Plan) -> Candidate | None:
    """A plan by scores on a way of one replica; None where samples would pass through nothing."""
    if len(starved_microbatches(plan.schedule, way.workload.partition.block)):
        return None
    return Candidate(
        way.workload,
        way.cluster,
        way.replicas,
        method="scores",
        load=None,
        schedule=plan.schedule,
        samples=way.samples,
        priced=price(way, plan.schedule),
    )
