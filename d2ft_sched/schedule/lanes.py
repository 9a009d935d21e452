"""How a schedule becomes batched work: the three lanes of a block as rectangles.

A lane holds all cells (subnet, micro-batch) of one device and block that have the same operation,
FULL, REST or FORWARD_ONLY. It is cut into lane groups, each a set of subnets times a set of
micro-batches that one sliced computation serves. The runtime executes these groups and the
simulator prices them.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.model.partition import Partition
from d2ft_sched.schedule.operations import Operation

LANES = (Operation.FULL, Operation.REST, Operation.FORWARD_ONLY)


@dataclass(frozen=True)
class LaneGroup:
    """Subnets (indices into the partition) that run one operation on the same micro-batches."""

    operation: Operation
    subnets: tuple[int, ...]
    microbatches: tuple[int, ...]


def lane_groups(
    partition: Partition,
    schedule: np.ndarray,
    block: int,
    held: np.ndarray | None = None,
    microbatches: np.ndarray | None = None,
) -> tuple[LaneGroup, ...]:
    """The fewest groups that merging equal rows, or else equal columns, of each lane gives.

    Args:
        partition: the subnets.
        schedule: int ``[num_subnets, num_microbatches]``.
        block: which block.
        held: bool ``[num_subnets]``, the subnets on this device; default all.
        microbatches: indices of the micro-batches of this pass; default all.
    """
    subnets = np.array(partition.of_block(block))
    if held is not None:
        subnets = subnets[held[subnets]]
    if microbatches is None:
        microbatches = np.arange(schedule.shape[1])
    operations = schedule[np.ix_(subnets, microbatches)]
    groups: list[LaneGroup] = []
    for lane in LANES:
        cells = operations == lane
        by_subnet = _merge_equal_rows(cells)
        by_microbatch = [(columns, rows) for rows, columns in _merge_equal_rows(cells.T)]
        fewest = by_microbatch if len(by_microbatch) < len(by_subnet) else by_subnet
        groups.extend(
            LaneGroup(
                lane,
                tuple(int(s) for s in subnets[rows]),
                tuple(int(i) for i in microbatches[columns]),
            )
            for rows, columns in fewest
        )
    return tuple(groups)


def _merge_equal_rows(cells: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(row indices, column indices) of each distinct row with at least one true cell."""
    members: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(cells.any(axis=1)):
        members.setdefault(cells[row].tobytes(), []).append(int(row))
    return [(np.array(rows), np.flatnonzero(cells[rows[0]])) for rows in members.values()]
