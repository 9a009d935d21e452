"""Rectangles of subnets and micro-batches that sets of one axis would run as.

Arrays over sites (a block on a device), S; a set names some of the items of the last axis of cells
``[S, other, items]``, bool ``[S, K, items]`` for K sets of every site. Its cells run in tiers: the
first tier has all of the other axis in which the set has one of its operations, and computes all
their cells of the set, whatever they are; the next has what is left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.schedule.operations import Operation

Tiers = tuple[tuple[Operation, ...], ...]
"""Operations that open a rectangle, tier after tier."""


@dataclass(frozen=True)
class Rectangles:
    """One tier of all sets.

    Attributes:
        others: of the other axis, bool ``[S, K, other]``.
        items: of the sets, those with a cell in it, and in the first tier, if they are kept, those
            of which nothing runs at all, so that the others may be neighbours; bool
            ``[S, K, items]``.
        runs_backward, trains: FULL or REST, and FULL, is among its cells, bool ``[S, K]``.
        is_masked: not all cells have one operation, bool ``[S, K]``.
        mixes_rest: REST is beside FULL, bool ``[S, K]``.
    """

    others: np.ndarray
    items: np.ndarray
    runs_backward: np.ndarray
    trains: np.ndarray
    is_masked: np.ndarray
    mixes_rest: np.ndarray


def rectangles(
    cells: np.ndarray, sets: np.ndarray, tiers: Tiers, fills: np.ndarray
) -> Iterator[Rectangles]:
    """Every tier of all sets.

    Args:
        cells: operations, int8 ``[S, other, items]``.
        sets: bool ``[S, K, items]``.
        tiers: which operations open which.
        fills: which items of a set the first tier keeps though nothing of them runs, bool
            ``[S, items]``.
    """
    of_operation = {
        operation: (cells == operation).astype(np.float32)
        for operation in (Operation.FULL, Operation.REST, Operation.FORWARD_ONLY)
    }
    chosen = sets.astype(np.float32)
    covered = np.zeros((*sets.shape[:2], cells.shape[1]), dtype=bool)
    active = (cells != Operation.SHORTCUT).astype(np.float32)
    fills = (fills & (cells == Operation.SHORTCUT).all(axis=1))[:, None]
    for tier in tiers:
        opens = np.isin(cells, tier).astype(np.float32)
        others = (chosen @ opens.transpose(0, 2, 1) > 0) & ~covered
        covered |= others
        rows = others.astype(np.float32)
        items = ((rows @ active > 0) | fills) & sets & others.any(axis=2, keepdims=True)
        fills = np.zeros_like(fills)
        columns = items.astype(np.float32)
        number = {
            operation: ((rows @ own) * columns).sum(axis=2)
            for operation, own in of_operation.items()
        }
        size = rows.sum(axis=2) * columns.sum(axis=2)
        trains = number[Operation.FULL] > 0
        yield Rectangles(
            others,
            items,
            trains | (number[Operation.REST] > 0),
            trains,
            np.max(list(number.values()), axis=0) < size,
            trains & (number[Operation.REST] > 0),
        )


def whole_rectangle(cells: np.ndarray, others: np.ndarray, items: np.ndarray) -> Rectangles:
    """One rectangle of each site, whatever runs in it: ``[S, 1, other]`` and ``[S, 1, items]``."""
    full, rest, forward_only = (
        (cells == operation).sum(axis=(1, 2))[:, None]
        for operation in (Operation.FULL, Operation.REST, Operation.FORWARD_ONLY)
    )
    size = others.sum(axis=2) * items.sum(axis=2)
    return Rectangles(
        others,
        items,
        full + rest > 0,
        full > 0,
        np.max([full, rest, forward_only], axis=0) < size,
        (full > 0) & (rest > 0),
    )


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
