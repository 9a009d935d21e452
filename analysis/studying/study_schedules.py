"""Schedules by a solver: where scores come from, and what bends values and budgets.

Every idea how a schedule may beat fewer micro-batches is a field of
`analysis.studying.study_file.MethodSchema`; they may be combined.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from analysis.studying.study_file import BudgetSchema, MethodSchema
from analysis.studying.study_recipe import (
    Recipe,
    best_dense_step_s,
    minibatch_order,
    placement_of,
)
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_candidates
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import Formulation, formulate
from d2ft_sched.problem.running_scores import nothing_seen
from d2ft_sched.problem.scores import Scores, by_block, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.registry import required_options
from runtime.peers.followed_schedules import FollowedSchedules
from runtime.peers.refreshed_scores import RefreshedScores
from runtime.peers.training import Scored, Start, score_chosen, score_start
from runtime.scoring.score_kinds import weight_magnitude
from runtime.scoring.seen_scores import SeenScores
from runtime.training.schedule_source import (
    SOLVED_AT_ONCE,
    KnownScores,
    ScoreSeries,
    SolvedSchedules,
)
from sim.target.target_plan import plan_for_target

MAX_CANDIDATES = 3
"""Placements that a schedule for a step time is tried on, besides the naive one."""
PHASES = 3
"""Parts of the training with a budget of their own, where it grows."""
_NEVER = -1e6
"""Value of an operation that must not be chosen; scores have mean 1."""


def scheduled(
    method: MethodSchema, budget: BudgetSchema, cluster: Cluster, start: Start, num_epochs: int
) -> Recipe:
    """The recipe of the kind ``schedule``.

    Raises:
        InputError: the method cannot meet the budget.
    """
    workload = start.workload
    scored = None
    scores = [uniform_scores(workload.num_subnets, workload.num_microbatches)]
    if method.scores == "before":
        scored = score_start(start, method.forward_score, method.backward_score)
        scores = [prepared(s, method, workload) for s in scored.scores]
    mean = Scores(
        np.mean([s.forward for s in scores], axis=0), np.mean([s.backward for s in scores], axis=0)
    )
    deployment, limits = _limits(method, budget, cluster, workload, mean)
    phases = [
        formulation_of(method, limits, deployment, mean, phase)
        for phase in range(PHASES if method.growth else 1)
    ]
    order = minibatch_order(start, num_epochs)
    if len(order) < len(phases):
        raise InputError(
            f"method {method.name!r}: growth has {len(phases)} phases, the training {len(order)} "
            f"steps"
        )
    phase_of = np.arange(len(order)) * len(phases) // len(order)
    recipe = Recipe(
        np.zeros((0, *mean.forward.shape), np.int8),
        num_epochs,
        False,
        cluster,
        deployment.placement,
        scored,
        rescale=method.rescale,
    )
    options: dict[str, Any] = {}
    if "magnitude" in required_options(method.solver):
        options["magnitude"] = weight_magnitude(start.model, workload)
    series = series_of(method, start, order, scored)
    solved = [
        SolvedSchedules(
            formulation,
            series,
            method.solver,
            start.seed,
            value_of=lambda s: values_of(prepared(s, method, workload), method),
            at_once=method.refresh_every if method.scores == "refreshed" else SOLVED_AT_ONCE,
            **options,
        )
        for formulation in phases
    ]
    dense = np.full(mean.forward.shape, Operation.FULL, dtype=np.int8)

    def schedule_of(step: int, minibatch: int) -> np.ndarray:
        return dense if step < method.warmup_steps else solved[phase_of[step]](step, minibatch)

    if isinstance(series, SeenScores | RefreshedScores):
        policy = FollowedSchedules(
            schedule_of,
            learner=series if isinstance(series, SeenScores) else None,
            refreshed=series if isinstance(series, RefreshedScores) else None,
            score_names=(method.forward_score, method.backward_score),
        )
        return replace(recipe, policy=policy)
    begin = time.perf_counter()
    schedules = np.stack([schedule_of(step, int(j)) for step, j in enumerate(order)])
    return replace(recipe, schedules=schedules, solve_s=time.perf_counter() - begin)


def _limits(
    method: MethodSchema,
    budget: BudgetSchema,
    cluster: Cluster,
    workload: Workload,
    mean: Scores,
) -> tuple[Deployment, Budget]:
    if budget.step_time is None:
        fractions = Budget(
            compute=budget.compute or 1.0,
            communication=budget.communication or 1.0,
            coverage=method.coverage,
        )
        return deploy(workload, cluster, placement_of(method, workload, cluster)), fractions
    tried = [deploy(workload, cluster)]
    if method.placement == "best":
        found = place_candidates(workload, cluster)[:MAX_CANDIDATES]
        tried += [deploy(workload, cluster, result.placement) for result in found]
    target_s = budget.step_time * best_dense_step_s(workload, cluster)
    plan = plan_for_target(tried, mean, target_s)
    return plan, replace(plan.budget, coverage=method.coverage)


def formulation_of(
    method: MethodSchema,
    limits: Budget,
    deployment: Deployment,
    scores: Scores,
    phase: int,
) -> Formulation:
    """The problem of one phase; each block has the capacities of its own budget.

    Raises:
        InputError: a budget would leave 0 to 1, or is of a step time and cannot be bent.
    """
    if not method.block_slope and not method.growth:
        return formulate(deployment, scores, limits)
    if limits.levels is not None:
        raise InputError(
            f"method {method.name!r}: block_slope and growth bend fractions; give it a budget of "
            f"compute or communication"
        )
    num_blocks = deployment.workload.shape.num_blocks
    of_phase = 1 + method.growth * (2 * phase / (PHASES - 1) - 1)
    of_block = 1 + method.block_slope * (2 * np.arange(num_blocks) / max(1, num_blocks - 1) - 1)
    parts = [
        formulate(deployment, scores, _bent(limits, float(of_phase * factor), method))
        for factor in of_block
    ]
    block = parts[0].knapsack_block
    capacity = np.stack([parts[b].problem.capacity[k] for k, b in enumerate(block)])
    return replace(parts[0], problem=replace(parts[0].problem, capacity=capacity))


def _bent(limits: Budget, factor: float, method: MethodSchema) -> Budget:
    fractions = {
        name: getattr(limits, name) * factor
        for name in ("compute", "communication")
        if getattr(limits, name) < 1
    }
    for name, fraction in fractions.items():
        if not 0 < fraction <= 1:
            raise InputError(
                f"method {method.name!r}: its {name} budget would be {fraction:.3g} somewhere; "
                f"block_slope and growth must leave it between 0 and 1"
            )
    return replace(limits, **fractions)


def random_scores(workload: Workload, num_steps: int, seed: int) -> list[Scores]:
    """Backward scores drawn anew for every step, so that no sample is left out for good."""
    size = (workload.num_subnets, workload.num_microbatches)
    rng = np.random.default_rng((seed, 2))
    forward = uniform_scores(*size).forward
    return [Scores(forward, rng.uniform(0.5, 1.5, size)) for _ in range(num_steps)]


class ScoresOfSteps(KnownScores):
    """Scores of every step."""

    def index_of(self, step: int, minibatch: int) -> int:
        return step


def series_of(
    method: MethodSchema, start: Start, order: np.ndarray, scored: Scored | None
) -> ScoreSeries:
    """Where the scores of a method come from; those of before training are given."""
    workload = start.workload
    if method.scores == "running":
        forward = weight_magnitude(start.model, workload)
        running = nothing_seen(
            forward, start.num_minibatches, workload.num_microbatches, start.seed
        )
        return SeenScores(running, order)
    if method.scores == "refreshed":
        score = partial(score_chosen, start, method.forward_score, method.backward_score)
        return RefreshedScores(order.tolist(), score)
    if method.scores == "random":
        return ScoresOfSteps(random_scores(workload, len(order), start.seed))
    assert scored is not None
    if method.solver == "random":  # which draws anew in every step
        return ScoresOfSteps([scored.scores[j] for j in order])
    return KnownScores(scored.scores)


def prepared(scores: Scores, method: MethodSchema, workload: Workload) -> Scores:
    """Scores as the method normalises and aligns them."""
    if method.normalize == "block":
        scores = by_block(scores, workload.partition.block)
    forward, backward = scores.forward, scores.backward
    if method.aligned:
        forward = np.broadcast_to(forward.mean(axis=0), forward.shape)
        backward = np.broadcast_to(backward.mean(axis=0), backward.shape)
    return Scores(forward, backward)


def values_of(scores: Scores, method: MethodSchema) -> np.ndarray:
    """Values of the operations that the method allows."""
    values = scores.values()
    if method.dropped == "forward_only":
        values[..., Operation.SHORTCUT] = _NEVER
    return values
