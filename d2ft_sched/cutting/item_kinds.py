"""Which items of an axis have the same operations."""

import numpy as np

from d2ft_sched.cutting.exact_covers import MOST_EXACT
from d2ft_sched.schedule.operations import Operation

_ROWS_AT_ONCE = 16
"""Whose operations, beside the number of a kind, an int64 has room for."""


def item_kinds(cells: np.ndarray) -> np.ndarray:
    """Numbers of kinds, from 0 and by their first items: the same for items of a site that are
    alike, int ``[S, items]``. Items so few that every set of them is tried are a kind each.

    Args:
        cells: operations, int8 ``[S, other, items]``.
    """
    num_sites, num_others, num_items = cells.shape
    if num_items <= MOST_EXACT:
        return np.broadcast_to(np.arange(num_items), (num_sites, num_items))
    kinds = np.zeros((num_sites, num_items), dtype=np.int64)
    for start in range(0, num_others, _ROWS_AT_ONCE):
        rows = cells[:, start : start + _ROWS_AT_ONCE]
        digits = len(Operation) ** np.arange(rows.shape[1])
        codes = kinds * len(Operation) ** rows.shape[1] + np.einsum("srk,r->sk", rows, digits)
        kinds = _numbered(codes)
    return kinds


def _numbered(codes: np.ndarray) -> np.ndarray:
    """The different codes of each row, numbered by their first places."""
    order = np.argsort(codes, axis=1, kind="stable")
    rising = np.take_along_axis(codes, order, axis=1)
    is_first = np.ones_like(codes, dtype=bool)
    is_first[:, 1:] = rising[:, 1:] != rising[:, :-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(codes.shape[1]), 0), axis=1)
    place = np.zeros_like(codes)
    np.put_along_axis(place, order, np.take_along_axis(order, first, axis=1), axis=1)
    number = np.cumsum(place == np.arange(codes.shape[1]), axis=1) - 1
    return np.take_along_axis(number, place, axis=1)
