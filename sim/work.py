"""How long each device computes in each phase of a step, from its curves or its roofline."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster import Cluster
from d2ft_sched.compute_curve import WorkKind
from d2ft_sched.flops import attention_flops, mlp_flops, trunk_flops
from d2ft_sched.lanes import lane_groups
from d2ft_sched.memory_traffic import lane_bytes_moved, optimizer_bytes_moved, trunk_bytes_moved
from d2ft_sched.operations import Operation
from d2ft_sched.placement import Placement
from d2ft_sched.workload import Workload

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
    flops = [[f.forward, f.backward] for f in (attention_flops(workload), mlp_flops(workload))]
    lane_bytes = lane_bytes_moved(workload)
    moved = [
        [lane_bytes.attention_forward, lane_bytes.attention_backward],
        [lane_bytes.mlp_forward, lane_bytes.mlp_backward],
    ]
    subnet_device = np.array(placement.subnet_device)
    lanes_s = np.zeros((2, num_blocks, 2, num_devices))
    for device in np.unique(subnet_device):
        held = subnet_device == device
        cells = [
            (block, group.operation, np.ix_(group.subnets, group.microbatches))
            for block in range(num_blocks)
            for group in lane_groups(workload.partition, schedule, block, held, microbatches)
        ]
        for direction in (FORWARD, BACKWARD):
            run = [c for c in cells if direction == FORWARD or c[1] == Operation.FULL]
            blocks = np.array([block for block, _, _ in run], dtype=int)
            for sublayer in (0, 1):
                group_flops = np.array([flops[sublayer][direction][ix].sum() for *_, ix in run])
                group_bytes = np.array([moved[sublayer][direction][ix].sum() for *_, ix in run])
                seconds = cluster.devices[device].seconds(
                    LANE_KINDS[direction][sublayer], group_flops, group_bytes
                )
                np.add.at(lanes_s[direction, :, sublayer, device], blocks, seconds)
    trunk_s = _trunk_seconds(workload, cluster, placement, microbatches)
    return StepWork(lanes_s, trunk_s)


def _trunk_seconds(
    workload: Workload, cluster: Cluster, placement: Placement, microbatches: np.ndarray
) -> np.ndarray:
    trunk, moved = trunk_flops(workload), trunk_bytes_moved(workload)
    owner = np.array(placement.owner)[microbatches]
    seconds = np.zeros((2, len(cluster.devices)))
    for direction, kind in enumerate((WorkKind.TRUNK_FORWARD, WorkKind.TRUNK_BACKWARD)):
        flops = (trunk.forward, trunk.backward)[direction][microbatches]
        bytes_moved = (moved.forward, moved.backward)[direction][microbatches]
        for device in np.unique(owner):
            seconds[direction, device] = cluster.devices[device].seconds(
                kind, flops[owner == device].sum(), bytes_moved[owner == device].sum()
            )
    return seconds


def optimizer_seconds(workload: Workload, cluster: Cluster, placement: Placement) -> np.ndarray:
    """Seconds of the parameter update on every device, float ``[num_devices]``."""
    moved = optimizer_bytes_moved(workload, placement)
    return np.array(
        [
            float(device.seconds(WorkKind.OPTIMIZER, 0.0, moved[d]))
            for d, device in enumerate(cluster.devices)
        ]
    )
