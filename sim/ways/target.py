"""Plans for a step time on the ways where they keep most."""

import time
from collections.abc import Collection
from dataclasses import replace

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from sim.target.target_plan import best_plan, target_searches
from sim.ways.candidates import Candidate, as_candidate, most_within
from sim.ways.estimate.load import Load, dense_load, sample_flops
from sim.ways.estimate.steps import Groups
from sim.ways.plans import BETTER, REST_PAYS, RESTING, scored_candidate
from sim.ways.redeal import redealt_scores
from sim.ways.resting_loads import best_resting, resting_loads
from sim.ways.search import WaySearch, best_dense, best_replicas, search_ways, shown, way_of
from sim.ways.way import Way, WayKind
from sim.ways.way_plan import WayPlan, value_kept, way_plan

MORE_SAMPLES = 0.02
"""Relative excess of samples for which more of the model rests."""
PARTS = (1, 4, 16)
"""Samples of the mini-batch over those for which ways are searched that may be short enough."""
MAX_TRIED = 3
"""Ways of each search on which a load is planned."""


def plan_for_target_on_ways(
    workload: Workload,
    cluster: Cluster,
    scores: Scores,
    target_s: float,
    *,
    kinds: Collection[WayKind | str] | None = None,
    communication: float = 1.0,
    solver: str = "dp",
    seed: int = 0,
    time_limit_s: float | None = None,
    search: WaySearch | None = None,
) -> WayPlan:
    """The plan that keeps most within a step time.

    Dense where that is short enough. Else heads or blocks rest, a quarter after another, where so
    many more samples run for it as pays (`REST_PAYS`); and where the best dense way has one
    replica, a schedule by scores if it keeps more than fewer samples and rest does not pay.

    Args:
        workload, cluster, scores, kinds, solver, seed, time_limit_s, search: as for `plan_on_ways`.
        target_s: seconds of the predicted step.
        communication: fraction of the bytes of the subnets' gradients that may be sent.

    Returns:
        A plan whose `fewer` is the dense step of the most samples in as short a step; of one
        sample, in its own best way, where that takes longer.

    Raises:
        InputError: not even one sample is that fast on any way, whatever rests; or memory does not
            suffice.
    """
    begin = time.perf_counter()
    known = search_ways(workload, cluster, kinds=kinds) if search is None else search
    dense, steps = best_dense(known), known.steps
    if dense.dense_step_s <= target_s and communication == 1:
        chosen, fewer = as_candidate(known.steps, dense), dense
    else:
        plain = _most(known, dense_load(workload), target_s)
        rested = _rested(known, plain, target_s, communication, seed)
        if rested is None:
            raise InputError(
                f"target step time is {target_s:.4g} s; not even one sample runs that fast on "
                f"cluster {cluster.name!r}, on which the fastest dense step of all of them takes "
                f"{dense.dense_step_s:.4g} s: ask for more"
            )
        chosen = rested
        if plain is None:
            one = dense_load(workload, 1)
            fewer = way_of(steps, best_replicas(steps, one, known.kinds)[0])
        else:
            load = dense_load(workload, plain.num_samples)
            fewer = way_of(steps, steps.priced(plain.groups, plain.samples, load))
        if chosen is plain and len(dense.replicas) == 1:
            chosen = _scored(known, dense, scores, plain, target_s, solver, seed, time_limit_s)
    return way_plan(
        known,
        chosen,
        chosen.load or dense_load(workload, sum(fewer.samples)),
        fewer,
        scores,
        Budget(communication=communication, target_step_s=target_s),
        solver=solver,
        seed=seed,
        solve_s=time.perf_counter() - begin,
    )


def _most(search: WaySearch, load: Load, target_s: float) -> Candidate | None:
    """The plan of most samples of a load whose step is short enough, on any way."""
    tried: dict[Groups, None] = {}
    for part in PARTS:
        fewer = replace(load, num_samples=max(1, load.num_samples // part))
        found = shown(search.steps, best_replicas(search.steps, fewer, search.kinds))
        tried.update(dict.fromkeys(one.groups for one in found[:MAX_TRIED]))
    made = (most_within(search.steps, groups, load, 1, target_s) for groups in tried)
    return max(
        (found for found in made if found is not None),
        key=lambda found: (found.num_samples, -found.step_s),
        default=None,
    )


def _most_resting(
    search: WaySearch, fraction: float, target_s: float, seed: int
) -> Candidate | None:
    """`_most` where so large a part of the heads, or blocks, trains."""
    loads = resting_loads(search.workload, fraction, 1.0, seed)
    return best_resting(search.steps, loads, lambda load: _most(search, load, target_s), seed)


def _rested(
    search: WaySearch, plain: Candidate | None, target_s: float, communication: float, seed: int
) -> Candidate | None:
    """The plan in which as little rests as its samples are worth it: where messages have no budget,
    for so many more FLOPs than fewer samples do as pays, and clearly more samples than with less at
    rest; none of adapters while a sample runs without."""
    workload = search.workload
    if workload.lora is not None and plain is not None and communication == 1:
        return plain
    if communication < 1:
        found = _most_resting(search, communication, target_s, seed)
        return plain if found is None else found
    flops, best, least = sample_flops(workload), plain, 0.0
    if plain is not None:
        plain_load = dense_load(workload, plain.num_samples)
        least = flops.subnets(plain_load) / (1 - REST_PAYS)
    for fraction in RESTING:
        found = _most_resting(search, fraction, target_s, seed)
        if found is None or found.load is None or flops.subnets(found.load) < least:
            continue
        if best is None or found.num_samples >= (1 + MORE_SAMPLES) * best.num_samples:
            best = found
    return best


def _scored(
    search: WaySearch,
    way: Way,
    scores: Scores,
    plain: Candidate,
    target_s: float,
    solver: str,
    seed: int,
    time_limit_s: float | None,
) -> Candidate:
    """A schedule by scores on a way of one replica, where it keeps more than fewer samples."""
    dealt = redealt_scores(
        scores, search.workload.microbatch_samples, way.workload.microbatch_samples
    )
    searches = target_searches([way], dealt)
    try:
        plan = best_plan(searches, target_s, solver=solver, seed=seed, time_limit_s=time_limit_s)
    except InputError:
        return plain
    found = scored_candidate(way, plan)
    if found is None or found.step_s > target_s:
        return plain
    kept, most = value_kept(search, scores, found)
    share = plain.num_samples / search.steps.num_samples
    return found if kept > (1 + BETTER) * share * most else plain
