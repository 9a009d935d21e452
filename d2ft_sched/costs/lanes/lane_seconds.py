"""Seconds of lane groups on their devices: the products, the weights copied for them, their masks.

Runtime and simulator decide by these what runs together, and the simulator prices what runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device, roofline_seconds
from d2ft_sched.costs.flops import attention_flops_of, mlp_flops_of
from d2ft_sched.costs.lanes.lane_traffic import copied_bytes_of, lane_bytes_of, mask_bytes_of
from d2ft_sched.model.workload import Workload

FORWARD, BACKWARD = 0, 1
LANE_KINDS = (
    (WorkKind.ATTENTION_FORWARD, WorkKind.MLP_FORWARD),
    (WorkKind.ATTENTION_BACKWARD, WorkKind.MLP_BACKWARD),
)
"""Kind of lane work by direction (forward, backward) and sub-layer (attention, MLP)."""


KERNELS_OF_A_LAUNCH = 5
"""A device's `launch_s` is of a piece of work: two maps, a core, and what is around them."""


@dataclass(frozen=True)
class LaneSizes:
    """What lane groups are, arrays of one shape; ordered by device.

    Attributes:
        device: which runs them.
        heads, hidden: of their subnets together.
        tokens: of their micro-batches together.
        runs_backward: FULL or REST is among their operations.
        trained_heads, trained_hidden: those of which dW is made.
        is_masked: not all cells have one operation, nor are some subnets FULL in all of them and
            the others REST.
        recomputes: forward runs again in backward.
        num_runs: of neighbours that their micro-batches are in the wave.
        is_copied: attention's, then MLP's weights are copied together for them, bool
            ``[2, num_groups]``.
    """

    device: np.ndarray
    heads: np.ndarray
    hidden: np.ndarray
    tokens: np.ndarray
    runs_backward: np.ndarray
    trained_heads: np.ndarray
    trained_hidden: np.ndarray
    is_masked: np.ndarray
    recomputes: np.ndarray
    num_runs: np.ndarray
    is_copied: np.ndarray

    @property
    def trains(self) -> np.ndarray:
        """Whether dW of anything is made."""
        return np.asarray(self.trained_heads + self.trained_hidden > 0)


def lane_seconds(
    workload: Workload,
    devices: Sequence[Device],
    sizes: LaneSizes,
    needs_dx: np.ndarray | bool = True,
    *,
    is_trial: bool = False,
) -> np.ndarray:
    """Seconds of each group, float ``[2 directions, 2 sub-layers, num_groups]``.

    Args:
        workload: the model, and what trains.
        devices: by index.
        sizes: of the groups.
        needs_dx: whether their gradient goes on to the sub-layer's input, bool that broadcasts to
            ``[2 sub-layers, num_groups]``.
        is_trial: whether groups are only tried, so that no size is warned of.
    """
    needed = np.broadcast_to(np.asarray(needs_dx), (2, len(sizes.device)))
    moved = lane_bytes_of(
        workload,
        sizes.heads,
        sizes.hidden,
        sizes.tokens,
        sizes.trained_heads,
        sizes.trained_hidden,
        sizes.recomputes,
    )
    copied = copied_bytes_of(workload, sizes.heads, sizes.hidden, sizes.trains, sizes.is_copied)
    masks = mask_bytes_of(workload, sizes.heads, sizes.hidden, sizes.tokens, sizes.is_masked)
    kernels = _kernels_besides(sizes)
    of_sublayer = (
        (
            attention_flops_of,
            (sizes.heads, sizes.trained_heads),
            (moved.attention_forward, moved.attention_backward),
        ),
        (
            mlp_flops_of,
            (sizes.hidden, sizes.trained_hidden),
            (moved.mlp_forward, moved.mlp_backward),
        ),
    )
    seconds = np.zeros((2, 2, len(sizes.device)))
    for sublayer, (flops_of, (units, trained), bytes_moved) in enumerate(of_sublayer):
        flops = flops_of(workload, units, sizes.tokens, needed[sublayer], sizes.recomputes)
        of_weights = flops_of(workload, trained, sizes.tokens).backward_weight
        of_direction = flops.forward, flops.backward_input + of_weights
        for direction in (FORWARD, BACKWARD):
            runs = np.where(direction == FORWARD, True, sizes.runs_backward)
            seconds[direction, sublayer] = work_seconds(
                devices,
                LANE_KINDS[direction][sublayer],
                sizes.device,
                of_direction[direction] * runs,
                bytes_moved[direction] * runs,
                (copied[direction, sublayer] + masks[direction, sublayer]) * runs,
                kernels[direction, sublayer] * runs * (units > 0),
                is_trial=is_trial,
            )
    return seconds


def _kernels_besides(sizes: LaneSizes) -> np.ndarray:
    """Kernels that copies, masks, and each further run of micro-batches start, float
    ``[2 directions, 2 sub-layers, num_groups]``.

    A copy is one kernel for the rows and one for the columns, in either direction; where they are
    copied, or train in part, dW and the gradient of the bias are written part by part, with zeros
    where no group writes, and what the MLP makes for it is copied forward. There is one mask
    forward and there are two backward. A further run is a product more for each map forward, and
    two for each backward.
    """
    trains_in_part = np.stack(
        [
            (sizes.trained_heads > 0) & (sizes.trained_heads < sizes.heads),
            (sizes.trained_hidden > 0) & (sizes.trained_hidden < sizes.hidden),
        ]
    )
    forward = 2 * sizes.is_copied + sizes.is_masked + 2 * (sizes.num_runs - 1)
    forward[1] += trains_in_part[1]
    in_parts = trains_in_part | (sizes.is_copied & sizes.trains)
    backward = 2 * sizes.is_copied + 10 * in_parts + 2 * sizes.is_masked + 4 * (sizes.num_runs - 1)
    return np.stack([forward, backward])


def work_seconds(
    devices: Sequence[Device],
    kind: WorkKind,
    device: np.ndarray,
    flops: np.ndarray,
    moved: np.ndarray,
    besides: np.ndarray | float = 0.0,
    kernels_besides: np.ndarray | float = 0.0,
    *,
    is_trial: bool = False,
) -> np.ndarray:
    """Seconds of pieces of work, ``[num_pieces]``, ordered by device.

    Args:
        devices: by index.
        kind: of the work.
        device: of each piece.
        flops, moved: of each piece, and bytes that it moves.
        besides: bytes moved before and after it: copies and masks.
        kernels_besides: kernels started besides those of a launch.
        is_trial: as in `lane_seconds`.
    """
    facts = ("compute_flops_per_s", "memory_bandwidth_bytes_per_s", "launch_s", "overlaps")
    flops_per_s, bytes_per_s, launch_s, overlaps = (
        np.array([getattr(d, name) for d in devices])[device] for name in facts
    )
    seconds = roofline_seconds(flops, moved, flops_per_s, bytes_per_s, launch_s, overlaps)
    for index in (i for i, d in enumerate(devices) if d.is_calibrated(kind)):
        own = slice(*np.searchsorted(device, [index, index + 1]).tolist())
        seconds[own] = devices[index].seconds(kind, flops[own], moved[own], is_trial=is_trial)
    return seconds + besides / bytes_per_s + kernels_besides * launch_s / KERNELS_OF_A_LAUNCH
