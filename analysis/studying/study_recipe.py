"""What a method of a study comes to: schedules, where they run, and what finding them took."""

from dataclasses import dataclass, replace

import numpy as np

from analysis.studying.study_file import BudgetSchema, MethodSchema
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.flops import step_flops, trunk_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_balanced
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.data.minibatches import epoch_order
from runtime.peers.followed_schedules import FollowedSchedules
from runtime.peers.training import Scored, Start
from sim.ways.candidates import Candidate


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to train, where it would run.

    Attributes:
        schedules: of every step, int8 ``[num_steps, num_subnets, num_microbatches]``; none yet
            where there is a `policy`.
        num_epochs: passes through the mini-batches.
        leave_out: whether a step is placed anew for the micro-batches that run.
        cluster: that it would run on.
        placement: of subnets and owners; None for data parallel. Where micro-batches are left out,
            its owners are those of the ones that run.
        scored: scores that were taken before training, or None.
        solve_s: seconds that solving took for all steps.
        policy: what decides the schedule of each step during training, or None.
        rescale: see `runtime.lanes.hooks.rescaled`.
        lr_factor: of the study's learning rate.
        num_frozen_blocks: see `runtime.peers.training.train_peer`.
        way: replicas and shares that it would run on, in place of `placement`; or None.
    """

    schedules: np.ndarray
    num_epochs: int
    leave_out: bool
    cluster: Cluster
    placement: Placement | None
    scored: Scored | None = None
    solve_s: float = 0.0
    policy: FollowedSchedules | None = None
    rescale: bool = False
    lr_factor: float = 1.0
    num_frozen_blocks: int = 0
    way: Candidate | None = None


def minibatch_order(start: Start, num_epochs: int) -> np.ndarray:
    """The mini-batch of every step, int ``[num_steps]``."""
    return np.concatenate(
        [epoch_order(start.num_minibatches, e + 1, start.seed) for e in range(num_epochs)]
    )


def naive_placement(workload: Workload, cluster: Cluster) -> Placement:
    """Subnets and micro-batches dealt in turn."""
    return place_round_robin(workload.partition, workload.num_microbatches, len(cluster.devices))


def placement_of(method: MethodSchema, workload: Workload, cluster: Cluster) -> Placement:
    """The naive one or the best for a dense step, as the method says."""
    if method.placement == "naive":
        return naive_placement(workload, cluster)
    return place_balanced(workload, cluster).placement


def best_dense_step_s(workload: Workload, cluster: Cluster) -> float:
    """Seconds of the dense step that trains all parameters, with the best placement found; the unit
    of step-time budgets."""
    return place_balanced(replace(workload, lora=None), cluster).dense_step_s


def own_budget(
    method: MethodSchema, budget: BudgetSchema, workload: Workload, cluster: Cluster
) -> BudgetSchema:
    """The budget as fractions of the workload's own dense run, not of one that trains all
    parameters; trunk left out, and every device paying for the factors that a block shares."""
    if workload.lora is None or budget.compute is None:
        return budget
    placement = placement_of(method, workload, cluster)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    dense_flops, own_flops = (
        step_flops(w, dense, placement) - (trunk_flops(w).forward + trunk_flops(w).backward).sum()
        for w in (replace(workload, lora=None), workload)
    )
    fraction = min(1.0, float(budget.compute * dense_flops / own_flops))
    return budget.model_copy(update={"compute": fraction})


def adapters_of(
    method: MethodSchema, budget: BudgetSchema, workload: Workload, cluster: Cluster
) -> Lora | None:
    """What a method trains; of the kind ``smaller_rank`` the largest rank within the budget.

    Every device pays for the factors that a block shares, so the rank depends on the placement:
    that of the step that trains all parameters.

    Raises:
        InputError: the method cannot meet the budget.
    """
    if method.lora_rank is None:
        return None
    scale = 1.0 if method.lora_alpha is None else method.lora_alpha / method.lora_rank
    if method.kind != "smaller_rank":
        return Lora(method.lora_rank, scale * method.lora_rank)
    if budget.compute is None or budget.communication is not None:
        raise InputError(
            f"method {method.name!r} has a rank for compute alone; give it a budget of compute"
        )
    num_subnets, num_microbatches = workload.num_subnets, workload.num_microbatches
    dense = uniform_schedule(num_subnets, num_microbatches, Operation.FULL)
    placement = placement_of(method, workload, cluster)
    most_flops = budget.compute * step_flops(workload, dense)
    for rank in range(method.lora_rank, 0, -1):
        lora = Lora(rank, scale * rank)
        if step_flops(replace(workload, lora=lora), dense, placement) <= most_flops:
            return lora
    raise InputError(f"method {method.name!r}: no rank is within the budget, not even 1")
