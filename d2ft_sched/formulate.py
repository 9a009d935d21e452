"""From workload, cluster, placement, scores and budget to the knapsack problem."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.capacity import Budget, level_capacity
from d2ft_sched.cluster import Cluster
from d2ft_sched.compute_curve import WorkKind
from d2ft_sched.errors import InputError
from d2ft_sched.exchange import operation_message_bytes
from d2ft_sched.flops import attention_flops, mlp_flops, operation_flops
from d2ft_sched.memory import device_memory, operation_activation_bytes
from d2ft_sched.memory_traffic import lane_bytes_moved
from d2ft_sched.operations import NUM_OPERATIONS, Operation
from d2ft_sched.placement import Placement
from d2ft_sched.problem import Problem
from d2ft_sched.schedule import uniform_schedule
from d2ft_sched.scores import Scores
from d2ft_sched.workload import Workload

RESOURCES = ("compute_s", "communication_bytes", "activation_bytes")
"""Order of the first axis of the problem's cost: seconds of the device's lanes, bytes between it
and the owners, bytes kept for backward."""


@dataclass(frozen=True)
class Formulation:
    """A problem and what its knapsacks stand for.

    Attributes:
        problem: what the solvers take; resources in the order of `RESOURCES`.
        knapsack_device: device of each knapsack, int ``[num_knapsacks]``.
        knapsack_block: its block, or -1 where a knapsack spans all blocks.
        dense: what each knapsack spends in the dense run, float ``[num_knapsacks, 3]``.
    """

    problem: Problem
    knapsack_device: np.ndarray
    knapsack_block: np.ndarray
    dense: np.ndarray


def formulate(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    scores: Scores,
    budget: Budget,
) -> Formulation:
    """The knapsack problem of one mini-batch.

    A knapsack is a (device, block) pair, or a device where ``budget.per_block`` is false. Compute
    and communication are levelled within a block (or over all) by `level_capacity`; activations get
    what the device's memory leaves, divided over its knapsacks by their dense need.

    Raises:
        InputError: a device's memory cannot hold its parameters, or the scores have another shape.
    """
    shape = (workload.num_subnets, workload.num_microbatches)
    if scores.forward.shape != shape:
        raise InputError(
            f"scores have shape {list(scores.forward.shape)}; the workload has {list(shape)} "
            f"[num_subnets, num_microbatches]"
        )
    device = np.array(placement.subnet_device)
    cost = np.stack(
        [
            operation_seconds(workload, cluster, placement),
            operation_message_bytes(workload, placement),
            operation_activation_bytes(workload),
        ]
    )
    block = workload.partition.block if budget.per_block else np.full(len(device), -1)
    pairs, knapsack = np.unique(np.stack([block, device]), axis=1, return_inverse=True)
    knapsack_block, knapsack_device = pairs
    knapsack = knapsack.ravel()

    dense_subnet = cost[..., Operation.FULL].sum(axis=2)
    num_knapsacks = pairs.shape[1]
    dense = np.zeros((num_knapsacks, len(RESOURCES)))
    np.add.at(dense, knapsack, dense_subnet.T)
    dense_flops = np.zeros(num_knapsacks)
    np.add.at(dense_flops, knapsack, operation_flops(workload)[..., Operation.FULL].sum(axis=1))

    flops_per_s = np.divide(
        dense_flops, dense[:, 0], out=np.full(num_knapsacks, np.inf), where=dense[:, 0] > 0
    )
    capacity = np.full_like(dense, np.inf)
    capacity[:, 0] = (
        level_capacity(dense_flops, flops_per_s, knapsack_block, budget.compute) / flops_per_s
    )
    bytes_per_s = cluster.device_bandwidth_bytes_per_s()[knapsack_device]
    capacity[:, 1] = level_capacity(dense[:, 1], bytes_per_s, knapsack_block, budget.communication)
    capacity[:, 2] = _activation_capacity(
        workload, cluster, placement, dense[:, 2], knapsack_device
    )
    problem = Problem(value=scores.values(), cost=cost, knapsack=knapsack, capacity=capacity)
    return Formulation(problem, knapsack_device, knapsack_block, dense)


def operation_seconds(workload: Workload, cluster: Cluster, placement: Placement) -> np.ndarray:
    """Seconds of every operation where it runs, float ``[num_subnets, num_microbatches, 3]``.

    Additive: each FLOP is priced as in the dense run, where the device's subnets of a block run
    together, so that the sum over a dense block is that block's time.
    """
    partition = workload.partition
    device = np.array(placement.subnet_device)
    pairs, pair = np.unique(np.stack([partition.block, device]), axis=1, return_inverse=True)
    pair = pair.ravel()
    moved = lane_bytes_moved(workload)
    cost = np.zeros((workload.num_subnets, workload.num_microbatches, NUM_OPERATIONS))
    for kind, flops, bytes_moved in (
        (WorkKind.ATTENTION_FORWARD, attention_flops(workload).forward, moved.attention_forward),
        (WorkKind.ATTENTION_BACKWARD, attention_flops(workload).backward, moved.attention_backward),
        (WorkKind.MLP_FORWARD, mlp_flops(workload).forward, moved.mlp_forward),
        (WorkKind.MLP_BACKWARD, mlp_flops(workload).backward, moved.mlp_backward),
    ):
        pair_flops = np.bincount(pair, weights=flops.sum(axis=1))
        pair_bytes = np.bincount(pair, weights=bytes_moved.sum(axis=1))
        pair_s = np.zeros(len(pair_flops))
        for d in np.unique(pairs[1]):
            members = pairs[1] == d
            pair_s[members] = cluster.devices[d].seconds(
                kind, pair_flops[members], pair_bytes[members]
            )
        seconds = flops * (pair_s / pair_flops)[pair][:, None]
        cost[..., Operation.FULL] += seconds
        if kind in (WorkKind.ATTENTION_FORWARD, WorkKind.MLP_FORWARD):
            cost[..., Operation.FORWARD_ONLY] += seconds
    return cost


def _activation_capacity(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    dense_bytes: np.ndarray,
    knapsack_device: np.ndarray,
) -> np.ndarray:
    nothing_kept = uniform_schedule(
        workload.num_subnets, workload.num_microbatches, Operation.SHORTCUT
    )
    fixed = device_memory(workload, placement, nothing_kept).total
    memory = np.array([d.memory_bytes for d in cluster.devices])
    for d in np.flatnonzero(fixed > memory):
        raise InputError(
            f"device {cluster.devices[d].name!r} has {memory[d] / 1e9:.3g} GB of memory; its "
            f"parameters, gradients, optimizer state and trunk need {fixed[d] / 1e9:.3g} GB: "
            f"give it fewer subnets or smaller micro-batches"
        )
    dense_device = np.bincount(knapsack_device, dense_bytes, minlength=len(memory))
    share = dense_bytes / dense_device[knapsack_device]
    capacity = share * (memory - fixed)[knapsack_device]
    return np.where(capacity < dense_bytes, capacity, np.inf)
