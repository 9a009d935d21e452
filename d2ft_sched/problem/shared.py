"""Constraints that couple knapsacks: shared limits and coverage."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.errors import InputError

NOT_COUNTED = -1
"""Group of an item that a shared constraint does not count."""


@dataclass(frozen=True, eq=False)
class SharedLimit:
    """Limits on one resource, each over a group of items that may lie in many knapsacks.

    A link used by several devices is a limit per link on bytes; a cluster-wide budget is one limit
    over all items.

    Attributes:
        resource: index on the first axis of the problem's cost.
        group: group of each subnet, int ``[num_subnets]``, or of each item, int
            ``[num_subnets, num_microbatches]``; -1 where not counted.
        capacity: what each group may spend, float >= 0 ``[num_groups]``, ``inf`` where free.
        name: what messages call it.
    """

    resource: int
    group: np.ndarray
    capacity: np.ndarray
    name: str = "shared limit"


@dataclass(frozen=True, eq=False)
class Coverage:
    """In every micro-batch at least `minimum` subnets of each group are active (not SHORTCUT).

    Attributes:
        group: group (such as the block) of each subnet, int ``[num_subnets]``; -1 where not
            counted.
        minimum: the least number of active subnets in every group.
        name: what messages call it.
    """

    group: np.ndarray
    minimum: int = 1
    name: str = "coverage"


SharedConstraint = SharedLimit | Coverage


def check_groups(
    name: str, group: np.ndarray, num_subnets: int, num_microbatches: int
) -> np.ndarray:
    """The groups per item, int ``[num_subnets, num_microbatches]``.

    Raises:
        InputError: wrong shape, or not whole numbers of at least -1.
    """
    group = np.asarray(group)
    if group.shape not in ((num_subnets,), (num_subnets, num_microbatches)):
        raise InputError(
            f"{name} has shape {list(group.shape)}; it must be [{num_subnets} subnets] or "
            f"[{num_subnets}, {num_microbatches} micro-batches]"
        )
    if not np.issubdtype(group.dtype, np.integer):
        raise InputError(f"{name} has type {group.dtype}; it must hold whole numbers")
    wrong = np.argwhere(group < NOT_COUNTED)
    if len(wrong):
        index = tuple(int(j) for j in wrong[0])
        raise InputError(f"{name}{list(index)} is {group[index]}; groups are -1, 0, 1, ...")
    group = group.astype(np.int64, copy=False)
    if group.ndim == 1:
        group = np.broadcast_to(group[:, None], (num_subnets, num_microbatches))
    return group
