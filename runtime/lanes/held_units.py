"""Heads and hidden units of a block that one device holds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


@dataclass(frozen=True)
class HeldUnits:
    """Heads and hidden units of one block, int64, sorted."""

    heads: np.ndarray
    hidden: np.ndarray

    def of(self, units: Literal["heads", "hidden"]) -> np.ndarray:
        return self.heads if units == "heads" else self.hidden

    @property
    def are_any(self) -> bool:
        return len(self.heads) + len(self.hidden) > 0


HEAD_PARTS = ("queries", "keys", "values")
"""What the maps into attention make of each head, in their order."""


def unit_rows(shape: ModelShape, *parts: str) -> tuple[int, ...]:
    """Rows of a map, or columns, that a head has in some of `HEAD_PARTS`, or a hidden unit in
    ``hidden``: those of several queries where these share keys and values."""
    rows = {"queries": shape.head_columns, "keys": shape.head_dim, "values": shape.head_dim}
    return tuple((rows | {"hidden": 1})[part] for part in parts)


def all_units(workload: Workload) -> HeldUnits:
    """Those of a whole block."""
    return HeldUnits(
        np.arange(workload.shape.num_heads, dtype=np.int64),
        np.arange(workload.shape.mlp_hidden, dtype=np.int64),
    )


def held_units(workload: Workload, placement: Placement, rank: int, block: int) -> HeldUnits:
    """Those of the subnets of `block` that are placed on `rank`."""
    return units_of(workload, np.array(placement.subnet_device) == rank, block)


def units_of(workload: Workload, chosen: np.ndarray, block: int) -> HeldUnits:
    """Those of the subnets of `block` that are `chosen`, bool ``[num_subnets]``."""
    partition = workload.partition
    subnets = [partition.subnets[s] for s in partition.of_block(block) if chosen[s]]
    heads = np.array(sorted(head for s in subnets for head in s.heads), dtype=np.int64)
    ranges = sorted((s.hidden_start, s.hidden_stop) for s in subnets)
    hidden = [np.arange(start, stop, dtype=np.int64) for start, stop in ranges]
    return HeldUnits(heads, np.concatenate(hidden) if hidden else np.array([], dtype=np.int64))
