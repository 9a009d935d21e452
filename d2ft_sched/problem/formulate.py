"""From workload, cluster, placement, scores and budget to the knapsack problem."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.activation_memory import operation_activation_bytes
from d2ft_sched.costs.exchange import operation_message_bytes
from d2ft_sched.costs.flops import attention_flops, mlp_flops, operation_flops
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of
from d2ft_sched.costs.memory import dense_bytes, memory_besides_operations
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import BlockLevels, Budget, level_capacity
from d2ft_sched.problem.link_share import fair_bytes, fair_level_s, seconds_per_byte
from d2ft_sched.problem.patterns import patterns
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.shared import Coverage
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.schedule.placement import Placement

RESOURCES = ("compute_s", "communication_bytes", "activation_bytes")
"""Order of the first axis of the problem's cost: seconds of the device's lanes, bytes between it
and the owners, bytes kept for backward."""

ROUNDING = 1e-12
"""A level that is this close to what the dense run needs does not bind."""


@dataclass(frozen=True)
class Formulation:
    """A problem and what its knapsacks and items stand for.

    Attributes:
        problem: what the solvers take; resources in the order of `RESOURCES`.
        knapsack_device: device of each knapsack, int ``[num_knapsacks]``.
        knapsack_block: its block, or -1 where a knapsack spans all blocks.
        dense: what each knapsack spends in the dense run, float ``[num_knapsacks, 3]``.
        row: row of the problem that decides for each subnet, int ``[num_subnets]``: its own, or
            one for all subnets of a pattern where the budget limits these.
        row_block: block of each row of the problem, int ``[num_rows]``.
    """

    problem: Problem
    knapsack_device: np.ndarray
    knapsack_block: np.ndarray
    dense: np.ndarray
    row: np.ndarray
    row_block: np.ndarray

    def schedule(self, operations: np.ndarray) -> np.ndarray:
        """The schedule ``[num_subnets, num_microbatches]`` of a choice for the problem's rows."""
        return operations[self.row]


def formulate(deployment: Deployment, scores: Scores, budget: Budget) -> Formulation:
    """The knapsack problem of one mini-batch.

    A knapsack is a (device, block) pair, or a device where ``budget.per_block`` is false. Compute
    and messages are levelled within a block (or over all), see `d2ft_sched.problem.budget`. What
    operations keep for backward is limited where the dense step does not fit a device's memory: to
    what `memory_besides_operations` leaves, so that every schedule fits, divided over the device's
    knapsacks by their dense need; and to the budget's fraction of that need. In several waves it
    could all be in one, so that the limit may be tighter than it must.

    Args:
        deployment: one replica.
        scores: contribution of every subnet to every micro-batch.
        budget: fractions of the dense run, or levels.

    Raises:
        InputError: a device's memory leaves nothing for activations, the scores have another shape,
            the levels are of another number of blocks, or no block can be covered as asked.
    """
    workload, placement = deployment.workload, deployment.placement
    shape = (workload.num_subnets, workload.num_microbatches)
    if scores.forward.shape != shape:
        raise InputError(
            f"scores have shape {list(scores.forward.shape)}; the workload has {list(shape)} "
            f"[num_subnets, num_microbatches]"
        )
    num_blocks = workload.shape.num_blocks
    if budget.levels and len(budget.levels.compute_s) != num_blocks:
        raise InputError(
            f"the budget has levels for {counted(len(budget.levels.compute_s), 'block')}; "
            f"{workload.shape.name} has {num_blocks}"
        )
    partition, device = workload.partition, np.array(placement.subnet_device)
    value = scores.values()
    cost = np.stack(
        [
            operation_seconds(deployment),
            operation_bytes(workload, placement),
            operation_activation_bytes(workload, placement)[..., :NUM_OPERATIONS],
        ]
    )
    flops = operation_flops(workload, placement)[..., Operation.FULL].sum(axis=1)
    block = partition.block if budget.per_block else np.full(workload.num_subnets, -1)
    (knapsack_block, knapsack_device), knapsack = _pairs(block, device)
    dense = _sum_rows(cost[..., Operation.FULL].sum(axis=2).T, knapsack)
    shares = message_shares(deployment, knapsack_device)
    if budget.levels:
        spent = level_capacities(dense, knapsack_block, shares, budget.levels)
    else:
        dense_flops = _sum_rows(flops, knapsack)
        spent = _budget_capacities(budget, dense, dense_flops, knapsack_block, shares)
    room = _activation_room(deployment)[knapsack_device]
    dense_device = np.bincount(knapsack_device, dense[:, 2], minlength=placement.num_devices)
    keeps = dense[:, 2] > 0  # nothing does on a device that computes forward again
    kept = budget.memory * dense[:, 2]
    share = dense[keeps, 2] / dense_device[knapsack_device[keeps]]
    kept[keeps] = np.minimum(share * room[keeps], kept[keeps])
    kept[kept >= dense[:, 2]] = np.inf
    capacity = np.column_stack([spent, kept])
    row = np.arange(workload.num_subnets)
    if budget.patterns is not None:
        site = _pairs(partition.block, device)[1]
        row = patterns(value, cost, knapsack, capacity, site, budget.patterns)
        value, cost = _sum_rows(value, row), np.stack([_sum_rows(one, row) for one in cost])
    first = np.unique(row, return_index=True)[1]
    row_block = partition.block[first]
    shared = (_coverage(row_block, budget.coverage),) if budget.coverage else ()
    problem = Problem(value, cost, knapsack[first], capacity, shared)
    return Formulation(problem, knapsack_device, knapsack_block, dense, row, row_block)


def _coverage(row_block: np.ndarray, minimum: int) -> Coverage:
    least = int(np.bincount(row_block).min())
    if minimum > least:
        raise InputError(
            f"the coverage is {minimum}; a block has {counted(least, 'subnet')} (or patterns, "
            f"where limited) that can be active"
        )
    return Coverage(row_block, minimum, "coverage of every block and micro-batch")


def _pairs(block: np.ndarray, device: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (block, device), int ``[2, num_pairs]``, and the index of each given one."""
    pairs, index = np.unique(np.stack([block, device]), axis=1, return_inverse=True)
    return pairs, index.ravel()


def _sum_rows(table: np.ndarray, row: np.ndarray) -> np.ndarray:
    total = np.zeros((int(row.max()) + 1, *table.shape[1:]))
    np.add.at(total, row, table)
    return total


def operation_bytes(workload: Workload, placement: Placement) -> np.ndarray:
    """Bytes between owner and device, float ``[num_subnets, num_microbatches, 3]``.

    Additive: what the subnets of a block on one device share in the dense run is charged to them in
    equal parts, so that the sum over a dense block is what it exchanges.
    """
    _, pair = _pairs(workload.partition.block, np.array(placement.subnet_device))
    sharing = np.bincount(pair)[pair]
    return operation_message_bytes(workload, placement) / sharing[:, None, None]


def operation_seconds(deployment: Deployment) -> np.ndarray:
    """Seconds of every operation where it runs, float ``[num_subnets, num_microbatches, 3]``.

    Additive: each FLOP is priced as in the dense run, where the device's subnets of a block run
    together, so that the sum over a dense block is that block's time.
    """
    workload, placement = deployment.workload, deployment.placement
    partition = workload.partition
    device = np.array(placement.subnet_device)
    pairs, pair = np.unique(np.stack([partition.block, device]), axis=1, return_inverse=True)
    pair = pair.ravel()
    heads, hidden = (np.bincount(pair, weights=n) for n in (partition.heads, partition.hidden))
    again = placement.recomputes[pairs[1]]
    moved = lane_bytes_of(workload, heads, hidden, workload.tokens.sum(), recomputes=again)
    attention, mlp = attention_flops(workload, placement), mlp_flops(workload, placement)
    cost = np.zeros((workload.num_subnets, workload.num_microbatches, NUM_OPERATIONS))
    for kind, flops, pair_bytes in (
        (WorkKind.ATTENTION_FORWARD, attention.forward, moved.attention_forward),
        (WorkKind.ATTENTION_BACKWARD, attention.backward, moved.attention_backward),
        (WorkKind.MLP_FORWARD, mlp.forward, moved.mlp_forward),
        (WorkKind.MLP_BACKWARD, mlp.backward, moved.mlp_backward),
    ):
        pair_flops = np.bincount(pair, weights=flops.sum(axis=1))
        pair_s = np.zeros(len(pair_flops))
        for d in np.unique(pairs[1]):
            members = pairs[1] == d
            pair_s[members] = deployment.cluster.devices[d].seconds(
                kind, pair_flops[members], pair_bytes[members]
            )
        per_flop = np.divide(pair_s, pair_flops, out=np.zeros_like(pair_s), where=pair_flops > 0)
        seconds = flops * per_flop[pair][:, None]
        cost[..., Operation.FULL] += seconds
        if kind in (WorkKind.ATTENTION_FORWARD, WorkKind.MLP_FORWARD):
            cost[..., Operation.FORWARD_ONLY] += seconds
    return cost


def message_shares(deployment: Deployment, device: np.ndarray) -> np.ndarray:
    """`seconds_per_byte` of each knapsack's device, float ``[num_rows, num_knapsacks]``."""
    holders, index = np.unique(device, return_inverse=True)
    return seconds_per_byte(deployment, holders)[:, index.ravel()]


def level_capacities(
    dense: np.ndarray, block: np.ndarray, shares: np.ndarray, levels: BlockLevels
) -> np.ndarray:
    """Lane seconds and bytes that knapsacks may spend, float ``[num_knapsacks, 2]``.

    Args:
        dense: what each spends in the dense run, float ``[num_knapsacks, 2 or more]``.
        block: its block, int ``[num_knapsacks]``.
        shares: from `message_shares`.
        levels: of every block.

    Returns:
        inf where the dense run fits.
    """
    capacity = np.full((len(dense), 2), np.inf)
    level_s = np.array(levels.compute_s)[block]
    binds = level_s < dense[:, 0] * (1 - ROUNDING)
    capacity[binds, 0] = level_s[binds]
    for group in np.unique(block):
        members = block == group
        demand = dense[members, 1]
        granted = fair_bytes(shares[:, members], demand, levels.communication_s[group])
        capacity[members, 1] = np.where(granted < demand, granted, np.inf)
    return capacity


def _budget_capacities(
    budget: Budget,
    dense: np.ndarray,
    dense_flops: np.ndarray,
    block: np.ndarray,
    shares: np.ndarray,
) -> np.ndarray:
    """As `level_capacities`, under the levels that the budget's fractions set."""
    capacity = np.full((len(dense), 2), np.inf)
    flops_per_s = np.divide(
        dense_flops, dense[:, 0], out=np.full(len(dense), np.inf), where=dense[:, 0] > 0
    )
    capacity[:, 0] = level_capacity(dense_flops, flops_per_s, block, budget.compute) / flops_per_s
    if budget.communication < 1:
        for group in np.unique(block):
            members = block == group
            demand = dense[members, 1]
            total = budget.communication * float(demand.sum())
            level_s = fair_level_s(shares[:, members], demand, total)
            granted = fair_bytes(shares[:, members], demand, level_s)
            capacity[members, 1] = np.where(granted < demand, granted, np.inf)
    return capacity


def _activation_room(deployment: Deployment) -> np.ndarray:
    """Bytes that operations may keep for backward, float ``[num_devices]``; inf if all fit."""
    workload, replica, devices = deployment.workload, deployment.replica, deployment.cluster.devices
    needed = dense_bytes(workload, replica)
    besides = memory_besides_operations(workload, replica)
    memory = np.array([d.memory_bytes for d in devices])
    room = np.where(needed <= memory, np.inf, memory - besides)
    for d in np.flatnonzero(room < 0):
        raise InputError(
            f"device {devices[d].name!r} has {memory[d] / 1e9:.3g} GB of memory; its "
            f"parameters, gradients, optimizer state, trunk and messages may need "
            f"{besides[d] / 1e9:.3g} GB before any operation keeps something for backward (all of "
            f"them {needed[d] / 1e9:.3g} GB): give it fewer subnets, smaller micro-batches or more "
            f"waves"
        )
    return room
