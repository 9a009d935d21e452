"""How long each device computes in each phase of a step, from its curves or its roofline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import roofline_seconds
from d2ft_sched.costs.flops import (
    attention_flops_of,
    mlp_flops_of,
    shared_factor_flops,
)
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.memory_traffic import (
    lane_bytes_of,
    optimizer_bytes_moved,
    shared_factor_bytes,
)
from d2ft_sched.costs.shared_factors import shared_factor_tokens
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lane_sizes import lane_sizes
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.placement import Placement

FORWARD, BACKWARD = 0, 1
LANE_KINDS = (
    (WorkKind.ATTENTION_FORWARD, WorkKind.MLP_FORWARD),
    (WorkKind.ATTENTION_BACKWARD, WorkKind.MLP_BACKWARD),
)
"""Kind of lane work by direction (forward, backward) and sub-layer (attention, MLP)."""


@dataclass(frozen=True)
class StepWork:
    """Seconds of computation of one wave of micro-batches.

    Attributes:
        lanes_s: float ``[2 directions, num_blocks, 2 sublayers, num_devices]``.
        trunk_s: the owners' norms, residuals, embedding and classifier, float
            ``[2 directions, num_devices]``, for all blocks together.
    """

    lanes_s: np.ndarray
    trunk_s: np.ndarray


def wave_work(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    microbatches: np.ndarray,
) -> StepWork:
    """Price the lane groups and the trunk of one wave on each device.

    Args:
        workload: model, partition and mini-batch.
        cluster: the devices.
        placement: device of every subnet, owner of every micro-batch.
        schedule: int ``[num_subnets, num_microbatches]``.
        microbatches: indices of the wave's micro-batches.
    """
    num_blocks, num_devices = workload.shape.num_blocks, len(cluster.devices)
    lanes_s = np.zeros((2, num_blocks, 2, num_devices))
    schedule = executed_schedule(workload, schedule)
    groups = lane_sizes(workload, placement, schedule, microbatches)
    needs_dx = np.any(needs_input_gradient(workload, schedule)[..., microbatches], axis=2)
    for direction, kinds in enumerate(LANE_KINDS):
        run = groups if direction == FORWARD else groups.select(runs_backward(groups.operation))
        trains = run.operation == Operation.FULL
        again = placement.recomputes[run.device]
        moved = lane_bytes_of(workload, run.heads, run.hidden, run.tokens, trains, again)
        sublayers = (
            (attention_flops_of, run.heads, (moved.attention_forward, moved.attention_backward)),
            (mlp_flops_of, run.hidden, (moved.mlp_forward, moved.mlp_backward)),
        )
        for sublayer, (flops_of, units, bytes_moved) in enumerate(sublayers):
            flops = flops_of(workload, units, run.tokens, needs_dx[run.block, sublayer], again)
            of_direction = flops.forward
            if direction == BACKWARD:
                of_direction = flops.backward_input + flops.backward_weight * trains
            seconds = _seconds(
                cluster, kinds[sublayer], run.device, of_direction, bytes_moved[direction]
            )
            np.add.at(lanes_s[direction, :, sublayer], (run.block, run.device), seconds)
    if workload.lora is not None:
        lanes_s += _shared_factor_seconds(workload, cluster, placement, schedule, microbatches)
    trunk_s = _trunk_seconds(workload, cluster, placement, schedule, microbatches)
    return StepWork(lanes_s, trunk_s)


def _shared_factor_seconds(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    microbatches: np.ndarray,
) -> np.ndarray:
    """As ``StepWork.lanes_s``, of the products with factors of adapters that a block shares."""
    shared = shared_factor_tokens(workload, schedule, placement, microbatches)
    maps_in = np.array(workload.shape.num_maps_in)[:, None]
    flops = shared_factor_flops(
        workload, maps_in, shared.forward, shared.backward, shared.input_gradient, shared.trained
    )
    bytes_moved = shared_factor_bytes(
        workload, maps_in, shared.forward, shared.backward, shared.trained
    )
    seconds = np.zeros((2, *shared.forward.shape))
    for direction, (of_all, moved) in enumerate(
        zip((flops.forward, flops.backward), bytes_moved, strict=True)
    ):
        for sublayer, kind in enumerate(LANE_KINDS[direction]):
            device, block = np.nonzero(of_all[:, sublayer].T)
            at = (block, sublayer, device)
            seconds[(direction, *at)] = _seconds(cluster, kind, device, of_all[at], moved[at])
    return seconds


def _trunk_seconds(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    microbatches: np.ndarray,
) -> np.ndarray:
    owner = np.array(placement.owner)[microbatches]
    running = np.zeros((workload.num_microbatches, workload.shape.num_blocks), dtype=bool)
    for own in (microbatches[owner == device] for device in np.unique(owner)):
        runs = (schedule[:, own] != Operation.SHORTCUT).any(axis=1)
        running[np.ix_(own, workload.partition.block[runs])] = True
    owners = np.unique(owner)
    seconds = np.zeros((2, len(cluster.devices)))
    for piece in trunk_pieces(workload, running.sum(axis=1)):
        for direction, (kind, flops, bytes_moved) in enumerate(piece.directions):
            owned_flops = np.bincount(owner, flops[microbatches])[owners]
            owned_bytes = np.bincount(owner, bytes_moved[microbatches])[owners]
            seconds[direction, owners] += _seconds(cluster, kind, owners, owned_flops, owned_bytes)
    return seconds


def optimizer_seconds(
    workload: Workload,
    cluster: Cluster,
    placements: Sequence[Placement],
    trains: np.ndarray | None = None,
) -> np.ndarray:
    """Seconds of the parameter update on every device, float ``[num_devices]``.

    Args:
        workload: the model, what trains, and the optimizer.
        cluster: the devices.
        placements: of replicas, which share no device.
        trains: which subnets do in the step, bool ``[num_subnets]``; default all.
    """
    moved = np.sum([optimizer_bytes_moved(workload, p, trains) for p in placements], axis=0)
    every = np.arange(len(cluster.devices))
    return _seconds(cluster, WorkKind.OPTIMIZER, every, np.zeros(len(every)), moved)


def _seconds(
    cluster: Cluster, kind: WorkKind, device: np.ndarray, flops: np.ndarray, moved: np.ndarray
) -> np.ndarray:
    """Seconds of pieces of work, ``[num_pieces]``, ordered by device."""
    devices = cluster.devices
    facts = ("compute_flops_per_s", "memory_bandwidth_bytes_per_s", "launch_s")
    flops_per_s, bytes_per_s, launch_s = (
        np.array([getattr(d, name) for d in devices])[device] for name in facts
    )
    seconds = roofline_seconds(flops, moved, flops_per_s, bytes_per_s, launch_s)
    for index in (i for i, d in enumerate(devices) if d.is_calibrated(kind)):
        own = slice(*np.searchsorted(device, [index, index + 1]).tolist())
        seconds[own] = devices[index].seconds(kind, flops[own], moved[own])
    return seconds
