"""The methods of a study at equal cost: from a budget to the schedules of all steps.

- ``dense``: everything FULL. ``data_parallel``: the same training, timed with the whole model on
  every device and micro-batches dealt by speed.
- ``fewer_microbatches``: as many whole micro-batches as the budget holds, the others left out with
  trunk and loss; drawn anew in every step, or those of most backward score.
- ``fewer_epochs``: dense for that fraction of the epochs, rounded.
- ``stochastic_depth``: whole blocks skipped for micro-batches at random (arXiv 1603.09382), without
  rescaling. ``random_heads``: the same for single subnets.
- ``layer_selection``: in every mini-batch the blocks of most backward score are trained, the others
  FORWARD_ONLY: our reading of ALaST (arXiv 2408.08670) and GreenTrainer (arXiv 2309.13192).
- ``frozen_prefix``: as many of the last blocks as the budget holds are trained, the others
  FORWARD_ONLY, and frozen with the embedding.
- ``smaller_rank``: dense with adapters of the largest rank that the budget holds.
- ``drawn``: some samples run and some blocks train, drawn anew in every step by the schedules that
  ``d2ft finetune`` follows, see `analysis.studying.study_drawn`.
- ``schedule``: a solver of `d2ft_sched.solvers.registry` on scores, see
  `analysis.studying.study_schedules`.

Any of them may train adapters (LoRA) in place of all parameters.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.studying.study_drawn import drawn_recipe
from analysis.studying.study_file import BudgetSchema, MethodSchema
from analysis.studying.study_recipe import (
    Recipe,
    best_dense_step_s,
    minibatch_order,
    own_budget,
    placement_of,
)
from analysis.studying.study_schedules import scheduled
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.registry import required_options
from runtime.peers.training import Start, score_start
from runtime.scoring.score_kinds import score_kind
from sim.questions.what_if import drop_devices
from sim.step import simulate_dense


def build_recipe(
    method: MethodSchema, budget: BudgetSchema, cluster: Cluster, start: Start, num_epochs: int
) -> Recipe:
    """The recipe of one method, whose names are known (`check_names`), at one budget.

    Args:
        method: what to do.
        budget: as in the study's file.
        cluster: where it would run.
        start: with the adapters that the method trains, if any.
        num_epochs: of the study.

    Raises:
        InputError: the method cannot meet the budget.
    """
    cluster = drop_devices(cluster, method.without)
    budget = own_budget(method, budget, start.workload, cluster)
    recipe = _recipe(method, budget, cluster, start, num_epochs)
    return replace(recipe, lr_factor=method.lr_factor)


def _recipe(
    method: MethodSchema, budget: BudgetSchema, cluster: Cluster, start: Start, num_epochs: int
) -> Recipe:
    num_epochs = method.num_epochs or num_epochs
    if method.kind == "schedule":
        return scheduled(method, budget, cluster, start, num_epochs)
    if method.kind == "drawn":
        return drawn_recipe(method, cluster, start, num_epochs)
    dense = uniform_schedule(
        start.workload.num_subnets, start.workload.num_microbatches, Operation.FULL
    )
    num_steps = num_epochs * start.num_minibatches
    if method.kind == "fewer_epochs":
        num_epochs = max(1, round(_fraction(budget, method) * num_epochs))
        num_steps = num_epochs * start.num_minibatches
    if method.kind in ("dense", "data_parallel", "fewer_epochs", "smaller_rank"):
        placement = placement_of(method, start.workload, cluster)
        everything = np.repeat(dense[None], num_steps, axis=0)
        is_split = method.kind == "data_parallel"
        return Recipe(everything, num_epochs, False, cluster, None if is_split else placement)
    scored = None
    if method.kind == "layer_selection" or method.select == "score":
        scored = score_start(start, method.forward_score, method.backward_score)
    rng = np.random.default_rng((start.seed, 1))
    placement = placement_of(method, start.workload, cluster)
    schedules = np.zeros((num_steps, *dense.shape), dtype=np.int8)
    order = minibatch_order(start, num_epochs)
    if method.kind == "fewer_microbatches":
        kept, placement = _most_microbatches(method, budget, start.workload, cluster)
        for step, minibatch in enumerate(order):
            chosen = rng.permutation(dense.shape[1])
            if scored:
                chosen = np.argsort(-scored.scores[minibatch].backward.sum(0), kind="stable")
            schedules[step][:, chosen[:kept]] = Operation.FULL
        return Recipe(schedules, num_epochs, True, cluster, placement, scored)
    fraction, block = _fraction(budget, method), start.workload.partition.block
    if method.kind == "frozen_prefix":
        schedules[:], num_frozen = _train_last_blocks(method, start.workload, budget)
        return Recipe(
            schedules, num_epochs, False, cluster, placement, num_frozen_blocks=num_frozen
        )
    for step, minibatch in enumerate(order):
        if method.kind == "layer_selection":
            assert scored
            by_block = np.bincount(block, scored.scores[minibatch].backward.sum(axis=1))
            schedules[step] = _train_blocks(by_block, method, start.workload, budget)
        else:
            units = block if method.kind == "stochastic_depth" else np.arange(len(block))
            schedules[step] = _drop_at_random(units, dense.shape[1], fraction, rng)
    return Recipe(schedules, num_epochs, False, cluster, placement, scored)


def check_names(method: MethodSchema, clusters: Sequence[Cluster]) -> None:
    """Refuse a method that no budget and no data could make good.

    Raises:
        InputError: a solver, a score or a device that is not known.
    """
    try:
        required_options(method.solver)
        score_kind(method.forward_score)
        score_kind(method.backward_score)
        for name in method.without:
            for cluster in clusters:
                if name not in [device.name for device in cluster.devices]:
                    raise InputError(f"device {name!r} is not in {cluster.name!r}")
    except InputError as error:
        raise InputError(f"method {method.name!r}: {error}") from None


def _fraction(budget: BudgetSchema, method: MethodSchema) -> float:
    if budget.step_time is not None:
        raise InputError(
            f"method {method.name!r} has no plan for a step time; give it a budget of compute or "
            f"communication"
        )
    return min(budget.compute or 1.0, budget.communication or 1.0)


def _most_microbatches(
    method: MethodSchema, budget: BudgetSchema, workload: Workload, cluster: Cluster
) -> tuple[int, Placement]:
    """How many micro-batches run, and where, placed anew for their number."""
    if budget.step_time is None:
        number = int(_fraction(budget, method) * workload.num_microbatches + 1e-9)
        if number == 0:
            raise InputError(f"method {method.name!r}: the budget holds not one micro-batch")
        fewer = replace(workload, microbatch_samples=workload.microbatch_samples[:number])
        return number, placement_of(method, fewer, cluster)
    target_s = budget.step_time * best_dense_step_s(workload, cluster)
    for number in range(workload.num_microbatches, 0, -1):
        fewer = replace(workload, microbatch_samples=workload.microbatch_samples[:number])
        placement = placement_of(method, fewer, cluster)
        if simulate_dense(deploy(fewer, cluster, placement)).step_s <= target_s:
            return number, placement
    raise InputError(f"method {method.name!r}: not one micro-batch is done within {target_s:.4g} s")


def _drop_at_random(
    units: np.ndarray, num_microbatches: int, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """FULL for a fraction of all (unit, micro-batch) pairs, SHORTCUT for the others."""
    num_pairs = (int(units.max()) + 1) * num_microbatches
    kept = np.zeros(num_pairs, dtype=np.int8)
    kept[rng.permutation(num_pairs)[: round(fraction * num_pairs)]] = Operation.FULL
    return kept.reshape(-1, num_microbatches)[units]


def _train_last_blocks(
    method: MethodSchema, workload: Workload, budget: BudgetSchema
) -> tuple[np.ndarray, int]:
    """The schedule that trains as many of the last blocks as it can, and how many it does not."""
    block = workload.partition.block
    schedule = _train_blocks(np.arange(block.max() + 1), method, workload, budget)
    trained = block[(schedule == Operation.FULL).any(axis=1)]
    return schedule, int(trained.min(initial=block.max() + 1))


def _train_blocks(
    by_block: np.ndarray, method: MethodSchema, workload: Workload, budget: BudgetSchema
) -> np.ndarray:
    """FULL in the blocks of most value, FORWARD_ONLY in the others."""
    block, num_blocks = workload.partition.block, workload.shape.num_blocks
    flops = operation_flops(workload).sum(axis=(0, 1))
    of_forward = flops[Operation.FORWARD_ONLY] / flops[Operation.FULL]
    shares = [
        (fraction - forward) / (1 - forward)
        for fraction, forward in ((budget.compute, of_forward), (budget.communication, 1 / 2))
        if fraction is not None
    ]
    number = int(np.floor(min(shares) * num_blocks + 1e-9))
    if number < 0:
        raise InputError(
            f"method {method.name!r} runs every block forward; the budget holds less than that"
        )
    trained = np.isin(block, np.argsort(-by_block, kind="stable")[:number])
    operation = np.where(trained, Operation.FULL, Operation.FORWARD_ONLY).astype(np.int8)
    return np.repeat(operation[:, None], workload.num_microbatches, axis=1)
