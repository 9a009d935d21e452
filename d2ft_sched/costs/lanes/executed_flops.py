"""FLOPs that lane groups execute besides those that the schedule asks for."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import SublayerFlops, attention_flops_of, mlp_flops_of
from d2ft_sched.costs.input_gradients import executed_schedule, needs_input_gradient
from d2ft_sched.costs.lanes.lane_groups import LaneGroups, lane_groups
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation, runs_backward
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.wave_part import wave_parts


def step_wasted_flops(
    workload: Workload,
    replica: Replica,
    schedule: np.ndarray,
    devices: Sequence[Device | None] | None,
) -> float:
    """`wasted_flops` of all waves; `devices` as `lane_groups` takes them."""
    executed = executed_schedule(workload, schedule)
    total = 0.0
    for part, number in Counter(wave_parts(workload, replica, executed)).items():
        own = part.workload, part.placement, part.schedule
        groups = lane_groups(*own, part.microbatches, devices)
        total += number * wasted_flops(part.workload, part.schedule, groups)
    return total


def wasted_flops(workload: Workload, schedule: np.ndarray, groups: LaneGroups) -> float:
    """FLOPs of a wave's groups that masks make nothing of.

    With adapters they are also those of narrow products that are made once more, apart for what
    trains: from the results of all groups of a sub-layer that train, where in one of them some run
    that do not; and from the gradients of a group in which some pass that do not train.

    Args:
        workload: model, partition, and what trains.
        schedule: as it is executed, int ``[num_subnets, num_microbatches]``.
        groups: of the wave.
    """
    if workload.lora is None and not groups.sizes.is_masked.any():
        return 0.0
    tokens = workload.tokens[groups.microbatches]
    needs_dx = needs_input_gradient(workload, schedule)[groups.block][..., groups.microbatches]
    again = groups.sizes.recomputes[:, None]
    area = groups.has_subnet[:, :, None] & groups.has_microbatch[:, None, :]
    partition, shape, total = workload.partition, workload.shape, 0.0
    rows_of, columns_of = (shape.head_rows, shape.hidden_rows), (shape.head_columns, 1)
    for sublayer, (flops_of, units) in enumerate(
        ((attention_flops_of, partition.heads), (mlp_flops_of, partition.hidden))
    ):
        own = np.where(groups.has_subnet, units[groups.subnets], 0)
        cells = groups.cells_in_sublayer(units, needs_dx[:, sublayer])
        trains = (cells == Operation.FULL).any(axis=(1, 2), keepdims=True)
        trains = trains & groups.trained[:, :, None]
        passes = runs_backward(cells)
        back = area & groups.runs_backward_on(units, needs_dx[:, sublayer])[:, None, :]
        handed_on = back & needs_dx[:, sublayer][:, None, :]
        if workload.lora is not None:
            handed_on &= passes.any(axis=1, keepdims=True)

        def flops(chosen: np.ndarray, needs_dx: bool) -> SublayerFlops:
            unit_tokens = np.einsum("nr,nrc,c->n", own, chosen, tokens, dtype=float)  # noqa: B023
            one = np.ones_like(unit_tokens)
            return flops_of(workload, one, unit_tokens, needs_dx, again[:, 0])  # noqa: B023

        map_in = flops(handed_on & ~passes, True), flops(handed_on & ~passes, False)
        of_each = (
            flops(area & (cells == Operation.SHORTCUT), True).forward
            + flops(back & ~passes, False).backward_input
            + (map_in[0].backward_input - map_in[1].backward_input)
            + flops(area & trains & (cells != Operation.FULL), True).backward_weight
        )
        total += float(of_each.sum())
        if workload.lora is not None:
            unit_tokens = own.sum(axis=1) * (groups.has_microbatch @ tokens)
            apart = _made_apart(groups, area, cells)
            one = 2.0 * workload.lora.rank * unit_tokens
            total += float(one @ (apart[0] * columns_of[sublayer] + apart[1] * rows_of[sublayer]))
    return total


def _made_apart(groups: LaneGroups, area: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Whose results, and whose gradients, are made apart for what trains, bool ``[2, num_groups]``;
    `area` and `cells` of a sub-layer, ``[num_groups, R, C]``."""
    trains = (cells == Operation.FULL).any(axis=(1, 2))
    passes = trains & (area & (cells == Operation.REST)).any(axis=(1, 2))
    runs = passes | (trains & (area & (cells == Operation.FORWARD_ONLY)).any(axis=(1, 2)))
    site = np.unique(np.stack([groups.device, groups.block]), axis=1, return_inverse=True)[1]
    runs_at_site = np.bincount(site.ravel(), runs) > 0
    return np.stack([trains & runs_at_site[site.ravel()], passes])
