"""From replicas, scores and budget to the problem of which blocks train and what each subnet does.

The compute budget is each device's (or each device's in every block), of the seconds that its lanes
take in the dense run. The communication budget is of the bytes of the subnets' gradients, which a
block that trains hands to the sum over replicas once. The trunk and messages inside replicas are
outside of both.
"""

import numpy as np

from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.costs.parameters import trained_subnet_parameters
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import operation_seconds
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.schedule.operations import Operation


def formulate_setups(deployment: Deployment, scores: Scores, budget: Budget) -> SetupProblem:
    """The knapsacks with setups of one mini-batch.

    REST is worth what FORWARD_ONLY is and takes the dX of the dense run besides; all subnets of a
    block train or rest together. Memory is not limited: the replicas must hold the dense step.

    Args:
        deployment: at least two replicas.
        scores: contribution of every subnet to every micro-batch.
        budget: `compute` and `communication` of the dense run, and whether per block.

    Raises:
        InputError: there is one replica, which sums no subnet's gradients, or the scores have
            another shape.
    """
    workload = deployment.workload
    size = (workload.num_subnets, workload.num_microbatches)
    if len(deployment.replicas) < 2:
        raise InputError("a problem with setups needs at least 2 replicas; there is 1")
    if scores.forward.shape != size:
        raise InputError(
            f"scores have shape {list(scores.forward.shape)}; the workload has {list(size)} "
            f"[num_subnets, num_microbatches]"
        )
    block = workload.partition.block
    seconds, knapsack = [], []
    for part in deployment.parts_of(deployment.uniform(Operation.FULL)):
        alone = deploy(part.workload, deployment.cluster, part.placement)
        seconds.append(operation_seconds(alone))
        place = np.array(part.placement.subnet_device)
        if budget.per_block:
            place = place * workload.shape.num_blocks + block
        knapsack.append(np.repeat(place[:, None], part.workload.num_microbatches, axis=1))
    cost = np.concatenate(seconds, axis=1)
    _, row = np.unique(np.concatenate(knapsack, axis=1), return_inverse=True)
    row = row.reshape(size)
    dense = np.bincount(row.ravel(), cost[..., Operation.FULL].ravel())
    capacity = budget.compute * dense if budget.compute < 1 else np.full(len(dense), np.inf)
    value = scores.values()
    gradient_bytes = trained_subnet_parameters(workload) * float(workload.parameter_bytes)
    allowed = budget.communication * gradient_bytes.sum() if budget.communication < 1 else np.inf
    return SetupProblem(
        Problem(value, cost[None], row, capacity[:, None]),
        rest_value=value[..., Operation.FORWARD_ONLY],
        rest_cost=_rest_seconds(workload, cost)[None],
        setup_cost=gradient_bytes[None],
        setup_capacity=np.array([allowed]),
        group=block,
    )


def _rest_seconds(workload: Workload, cost: np.ndarray) -> np.ndarray:
    """Of forward and dX, ``[num_subnets, num_microbatches]``: backward's seconds by its FLOPs."""
    flops = operation_flops(workload)
    forward, rest, full = (
        flops[..., op] for op in (Operation.FORWARD_ONLY, Operation.REST, Operation.FULL)
    )
    part = np.divide(rest - forward, full - forward, out=np.zeros_like(full), where=full > forward)
    forward_s = cost[..., Operation.FORWARD_ONLY]
    return forward_s + np.minimum(part, 1.0) * (cost[..., Operation.FULL] - forward_s)
