"""Which subnets a device holds of each block: what is cut into lane groups."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True)
class LaneSites:
    """Blocks on devices, ordered by device.

    Attributes:
        device, block: int ``[S]``.
        rows: subnets of each, in order, -1 beyond the last, int ``[S, R]``.
        heads, hidden: of them, 0 beyond the last, int ``[S, R]``.
        recomputes: whether the device runs forward again in backward, bool ``[S]``.
    """

    device: np.ndarray
    block: np.ndarray
    rows: np.ndarray
    heads: np.ndarray
    hidden: np.ndarray
    recomputes: np.ndarray

    def select(self, chosen: np.ndarray) -> "LaneSites":
        return LaneSites(*(values[chosen] for values in vars(self).values()))

    def operations(self, schedule: np.ndarray) -> np.ndarray:
        """Of the subnets of every site, SHORTCUT beyond the last, int8 ``[S, R, C]``."""
        beyond = self.rows[:, :, None] < 0
        return np.where(beyond, np.int8(Operation.SHORTCUT), schedule[self.rows])


def lane_sites(workload: Workload, placement: Placement, subnets: np.ndarray) -> LaneSites:
    """The sites of some subnets, indices, sorted."""
    partition = workload.partition
    device = np.array(placement.subnet_device, dtype=np.int64)[subnets]
    site = device * partition.num_blocks + partition.block[subnets]
    order = np.argsort(site, kind="stable")
    numbers, first, held = np.unique(site[order], return_index=True, return_counts=True)
    rows = np.full((len(numbers), held.max(initial=1)), -1)
    rank = np.arange(len(order)) - np.repeat(first, held)
    rows[np.repeat(np.arange(len(numbers)), held), rank] = subnets[order]
    return LaneSites(
        numbers // partition.num_blocks,
        numbers % partition.num_blocks,
        rows,
        np.where(rows < 0, 0, partition.heads[rows]),
        np.where(rows < 0, 0, partition.hidden[rows]),
        placement.recomputes[numbers // partition.num_blocks],
    )
