"""Methods whose samples and trained blocks are drawn anew in every step, each on its best way."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from analysis.studying.study_file import MethodSchema
from analysis.studying.study_recipe import Recipe
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.redrawn import redrawn
from d2ft_sched.schedule.operations import Operation, trains_in_step
from runtime.peers.followed_schedules import FollowedSchedules
from runtime.peers.scored_rest import ScoredRest
from runtime.peers.training import Start
from runtime.training.schedule_source import RedrawnSchedules
from sim.ways.candidates import Candidate, candidate
from sim.ways.estimate.load import load_of
from sim.ways.search import WaySearch, best_replicas, search_ways, shown


def drawn_recipe(method: MethodSchema, cluster: Cluster, start: Start, num_epochs: int) -> Recipe:
    """The recipe of the kind ``drawn``.

    Args:
        method: what to do.
        cluster: where it would run.
        start: with the adapters and mini-batches of the method.
        num_epochs: that it trains.

    Raises:
        InputError: the samples are no whole micro-batches, or nothing would train.
    """
    workload = start.workload
    first = _first_schedule(method, workload)
    unit = workload.partition.block if method.unit == "block" else np.arange(len(first))
    recipe = Recipe(
        np.zeros((0, *first.shape), np.int8),
        num_epochs,
        False,
        cluster,
        None,
        way=_best_way(workload, cluster, first, unit, start.seed),
    )
    if method.policy == "scores":
        scored = ScoredRest(first, unit, start.seed)
        return replace(recipe, policy=FollowedSchedules(scored, learner=scored))
    schedules = RedrawnSchedules(first, unit, method.policy, start.seed)
    num_steps = num_epochs * start.num_minibatches
    return replace(recipe, schedules=np.stack([schedules(step, 0) for step in range(num_steps)]))


def _first_schedule(method: MethodSchema, workload: Workload) -> np.ndarray:
    """As many micro-batches and units as the method has, the first ones."""
    num_running = method.samples * workload.num_microbatches
    if not round(num_running) or abs(num_running - round(num_running)) > 1e-9:
        raise InputError(
            f"method {method.name!r}: samples is {method.samples:g}, which are {num_running:g} "
            f"of {counted(workload.num_microbatches, 'micro-batch')}; it must be a whole "
            f"number of them"
        )
    block = workload.partition.block
    unit = block if method.unit == "block" else np.arange(len(block))
    num_trained = int(method.trains * (unit.max() + 1) * (1 + 1e-12))
    if not num_trained:
        raise InputError(
            f"method {method.name!r}: trains is {method.trains:g} of {unit.max() + 1} "
            f"{method.unit}s; it must be at least one"
        )
    schedule = np.full((workload.num_subnets, workload.num_microbatches), Operation.SHORTCUT)
    operation = np.where(unit < num_trained, Operation.FULL, Operation.REST)
    schedule[:, : round(num_running)] = operation[:, None]
    return schedule.astype(np.int8)


def _best_way(
    workload: Workload, cluster: Cluster, schedule: np.ndarray, unit: np.ndarray, seed: int
) -> Candidate:
    """The replicas and shares with the least predicted step for as many samples and units."""
    first = redrawn(schedule, unit, 0, seed)
    runs = (schedule != Operation.SHORTCUT).any(axis=0)
    load = load_of(workload, int(workload.samples[runs].sum()), trains_in_step(first))
    search = ways_of(workload, cluster)
    found = shown(search.steps, best_replicas(search.steps, load, search.kinds))
    fitting = [c for c in (candidate(search.steps, one) for one in found) if c.priced.fits]
    if not fitting:
        raise InputError(
            f"cluster {cluster.name!r}: {workload.shape.name} does not fit it in any way; use more "
            f"memory, LoRA or a smaller model"
        )
    return min(fitting, key=lambda c: c.step_s)


@lru_cache(maxsize=16)
def ways_of(workload: Workload, cluster: Cluster) -> WaySearch:
    """The ways of a mini-batch on a cluster, searched once."""
    return search_ways(workload, cluster)
