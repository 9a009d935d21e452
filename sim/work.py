"""How long each device computes in each phase of a step, from its curves or its roofline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import shared_factor_flops
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import lane_groups
from d2ft_sched.costs.lanes.lane_seconds import LANE_KINDS, lane_seconds, work_seconds
from d2ft_sched.costs.lanes.lane_traffic import shared_factor_bytes
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved
from d2ft_sched.costs.shared_factors import shared_factor_tokens
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.wave_part import WavePart


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

    @property
    def longest_lanes_s(self) -> list[list[list[float]]]:
        """Of any device, by direction, block and sub-layer."""
        longest: list[list[list[float]]] = self.lanes_s.max(axis=-1).tolist()
        return longest


def wave_work(
    part: WavePart,
    cluster: Cluster,
    devices: Sequence[Device | None] | None = None,
) -> StepWork:
    """Price the lane groups and the trunk of one wave on each device.

    Args:
        part: what the wave does.
        cluster: the devices.
        devices: as `lane_groups` takes them; default those of the cluster.
    """
    workload, placement = part.workload, part.placement
    num_blocks, num_devices = workload.shape.num_blocks, len(cluster.devices)
    lanes_s = np.zeros((2, num_blocks, 2, num_devices))
    schedule = executed_schedule(workload, part.schedule)
    executed = replace(part, schedule=schedule)
    microbatches = part.microbatches
    groups = lane_groups(workload, placement, schedule, microbatches, devices or cluster.devices)
    needs_dx = np.any(needs_input_gradient(workload, schedule), axis=2)
    seconds = lane_seconds(workload, cluster.devices, groups.sizes, needs_dx[groups.block].T)
    np.add.at(
        lanes_s.transpose(1, 3, 0, 2), (groups.block, groups.device), seconds.transpose(2, 0, 1)
    )
    if workload.lora is not None:
        lanes_s += _shared_factor_seconds(executed, cluster)
    trunk_s = _trunk_seconds(executed, cluster)
    return StepWork(lanes_s, trunk_s)


def _shared_factor_seconds(part: WavePart, cluster: Cluster) -> np.ndarray:
    """As ``StepWork.lanes_s``, of the products with factors of adapters that a block shares."""
    workload = part.workload
    shared = shared_factor_tokens(workload, part.schedule, part.placement)
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
            seconds[(direction, *at)] = work_seconds(
                cluster.devices, kind, device, of_all[at], moved[at]
            )
    return seconds


def _trunk_seconds(part: WavePart, cluster: Cluster) -> np.ndarray:
    workload = part.workload
    owner = np.array(part.placement.owner)
    running = np.zeros((workload.num_microbatches, workload.shape.num_blocks), dtype=bool)
    for own in (np.flatnonzero(owner == device) for device in np.unique(owner)):
        runs = (part.schedule[:, own] != Operation.SHORTCUT).any(axis=1)
        running[np.ix_(own, workload.partition.block[runs])] = True
    owners = np.unique(owner)
    seconds = np.zeros((2, len(cluster.devices)))
    for piece in trunk_pieces(workload, running.sum(axis=1)):
        for direction, (kind, flops, bytes_moved) in enumerate(piece.directions):
            owned_flops = np.bincount(owner, flops)[owners]
            owned_bytes = np.bincount(owner, bytes_moved)[owners]
            seconds[direction, owners] += work_seconds(
                cluster.devices, kind, owners, owned_flops, owned_bytes
            )
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
    return work_seconds(cluster.devices, WorkKind.OPTIMIZER, every, np.zeros(len(every)), moved)
