"""Rectangles of subnets and micro-batches that sets of one axis would run as.

Arrays over sites (a block on a device), S; a set names some of the items of the last axis of cells
``[S, other, items]``, bool ``[S, K, items]`` for K sets of every site. Its cells run in tiers: the
first tier has all of the other axis in which the set has one of its operations, and computes all
their cells of the set, whatever they are; the next has what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.schedule.lanes import LANES
from d2ft_sched.schedule.operations import Operation

Tiers = tuple[tuple[Operation, ...], ...]
"""Operations that open a rectangle, tier after tier."""


@dataclass(frozen=True)
class Runs:
    """What runs in rectangles, bool ``[S, K]`` each.

    Attributes:
        runs_backward: FULL or REST is among its cells.
        is_masked: not all cells have one operation, and it is not so that some subnets are FULL in
            all of them and the others REST.
        mixes_rest: REST is beside FULL.
        trained: subnets that are FULL in any of its cells, bool ``[S, K, R]``.
    """

    runs_backward: np.ndarray
    is_masked: np.ndarray
    mixes_rest: np.ndarray
    trained: np.ndarray

    def joined(self, others: Sequence["Runs"]) -> "Runs":
        """With others of the same sites behind."""
        every = [self, *others]
        return Runs(
            *(np.concatenate([vars(o)[name] for o in every], axis=1) for name in vars(self))
        )


@dataclass(frozen=True)
class Rectangles:
    """One tier of all sets.

    Attributes:
        others: of the other axis, bool ``[S, K, other]``.
        items: of the sets, those with a cell in it, and in the first tier, if they are kept, those
            of which nothing runs at all, so that the others may be neighbours; bool
            ``[S, K, items]``.
        runs: what runs in it.
    """

    others: np.ndarray
    items: np.ndarray
    runs: Runs


def rectangles(
    cells: np.ndarray,
    sets: np.ndarray,
    ways: Sequence[Tiers],
    fills: np.ndarray,
    *,
    by_subnet: bool,
) -> dict[Tiers, Rectangles]:
    """The last tier of every beginning of some ways, of all sets.

    Args:
        cells: operations, int8 ``[S, other, items]``.
        sets: bool ``[S, K, items]``.
        ways: which operations open which tiers.
        fills: which items of a set the first tier keeps though nothing of them runs, bool
            ``[S, items]``.
        by_subnet: whether the items are subnets; else the others are.
    """
    of_operation = {operation: (cells == operation).astype(np.float32) for operation in LANES}
    chosen = sets.astype(np.float32)
    active = (cells != Operation.SHORTCUT).astype(np.float32)
    idle = (fills & (cells == Operation.SHORTCUT).all(axis=1))[:, None]
    nothing = np.zeros((*sets.shape[:2], cells.shape[1]), dtype=bool)
    covered: dict[Tiers, np.ndarray] = {(): nothing}
    made: dict[Tiers, Rectangles] = {}
    for tiers in dict.fromkeys(way[:n] for way in ways for n in range(1, len(way) + 1)):
        before = covered[tiers[:-1]]
        opens = np.sum([of_operation[operation] for operation in tiers[-1]], axis=0)
        others = (chosen @ opens.transpose(0, 2, 1) > 0) & ~before
        covered[tiers] = before | others
        rows = others.astype(np.float32)
        taken = rows @ active > 0
        if len(tiers) == 1:
            taken |= idle
        items = taken & sets & others.any(axis=2, keepdims=True)
        columns = items.astype(np.float32)
        number = {
            operation: ((rows @ own) * columns).sum(axis=2)
            for operation, own in of_operation.items()
        }
        full = of_operation[Operation.FULL]
        of_subnet = (
            (rows @ full) * columns if by_subnet else (columns @ full.transpose(0, 2, 1)) * rows
        )
        along = rows.sum(axis=2), columns.sum(axis=2)
        runs = _runs(number, along[0] * along[1], of_subnet, along[0 if by_subnet else 1])
        made[tiers] = Rectangles(others, items, runs)
    return made


def whole_rectangle(
    cells: np.ndarray, num_subnets: np.ndarray, num_microbatches: np.ndarray
) -> Runs:
    """What runs in one rectangle of each site that has all of it, ``[S, 1]``.

    Args:
        cells: operations, int8 ``[S, R, C]``.
        num_subnets, num_microbatches: of the rectangles, int ``[S]``.
    """
    number = {operation: (cells == operation).sum(axis=(1, 2))[:, None] for operation in LANES}
    of_subnet = (cells == Operation.FULL).sum(axis=2)[:, None]
    size = num_subnets * num_microbatches
    return _runs(number, size[:, None], of_subnet, num_microbatches[:, None])


def _runs(
    number: dict[Operation, np.ndarray],
    size: np.ndarray,
    full_of_subnet: np.ndarray,
    num_microbatches: np.ndarray,
) -> Runs:
    """Of rectangles with so many cells of each operation and in all, ``[S, K]`` each; with so many
    FULL cells of each subnet, ``[S, K, R]``, and so many micro-batches."""
    trains, rests = number[Operation.FULL] > 0, number[Operation.REST] > 0
    trained = full_of_subnet > 0
    is_one = np.max(list(number.values()), axis=0) >= size
    passes_all = number[Operation.FULL] + number[Operation.REST] >= size
    in_part = (trained & (full_of_subnet < num_microbatches[..., None])).any(axis=2)
    return Runs(trains | rests, ~is_one & (in_part | ~passes_all), trains & rests, trained)


def tierings(present: Sequence[Operation]) -> list[Tiers]:
    """All ways to open tiers with some operations, those with more backward first.

    Where FORWARD_ONLY is among them it may also be left out, to be cut anew.
    """
    ways: list[Tiers] = [((present[0],),)] if present else []
    for operation in present[1:]:
        left_out = ways if operation == Operation.FORWARD_ONLY else []
        ways = [
            *[(*way, (operation,)) for way in ways],
            *[(*way[:-1], (*way[-1], operation)) for way in ways],
            *left_out,
        ]
    return ways
