"""The cheapest partition of a few items into sets, or of a line of items into stretches."""

from functools import cache

import numpy as np

MOST_EXACT = 6
"""Items for which every set is tried; of more, every stretch of an order."""
MOST_APART = 32
"""Items that are cut one by one."""


def candidate_sets(num_items: int) -> np.ndarray:
    """All sets of a few items, or all stretches of more, bool ``[K, num_items]``."""
    return _all_sets(num_items) if num_items <= MOST_EXACT else _all_stretches(num_items)


def cheapest_cover(prices: np.ndarray, num_items: int) -> np.ndarray:
    """Which candidates partition the items at the least sum, bool ``[S, K]``.

    Args:
        prices: of `candidate_sets`, finite, float ``[S, K]``.
        num_items: the more there are, the longer it takes: ``3**num_items`` up to `MOST_EXACT`,
            then its square.
    """
    if num_items <= MOST_EXACT:
        return _cheapest_sets(prices, num_items)
    return _cheapest_stretches(prices, num_items)


@cache
def _all_sets(num_items: int) -> np.ndarray:
    numbers = np.arange(1, 2**num_items)
    return (numbers[:, None] >> np.arange(num_items)) & 1 > 0


@cache
def _subsets_with_lowest(number: int) -> np.ndarray:
    """The subsets of a set of bits that have its lowest one, int."""
    lowest = number & -number
    rest = number ^ lowest
    subsets, subset = [], rest
    while True:
        subsets.append(subset | lowest)
        if subset == 0:
            return np.array(subsets)
        subset = (subset - 1) & rest


def _cheapest_sets(prices: np.ndarray, num_items: int) -> np.ndarray:
    num_sites, every = len(prices), 2**num_items
    best, taken = np.zeros((every, num_sites)), np.zeros((every, num_sites), dtype=np.int64)
    of_set = prices.T
    for number in range(1, every):
        subsets = _subsets_with_lowest(number)
        sums = best[number ^ subsets] + of_set[subsets - 1]
        which = sums.argmin(axis=0)
        taken[number] = subsets[which]
        best[number] = np.take_along_axis(sums, which[None], axis=0)[0]
    chosen = np.zeros(prices.shape, dtype=bool)
    left, sites = np.full(num_sites, every - 1), np.arange(num_sites)
    for _ in range(num_items):
        going = left > 0
        own = taken[left[going], sites[going]]
        chosen[sites[going], own - 1] = True
        left[going] ^= own
    return chosen


@cache
def _all_stretches(num_items: int) -> np.ndarray:
    """Ordered by their last item, then by their first."""
    stop, start = np.tril_indices(num_items)
    at = np.arange(num_items)
    return (at >= start[:, None]) & (at <= stop[:, None])


def _cheapest_stretches(prices: np.ndarray, num_items: int) -> np.ndarray:
    num_sites = len(prices)
    best = np.zeros((num_items + 1, num_sites))
    first = np.zeros((num_items, num_sites), dtype=np.int64)
    of_set = prices.T
    for last in range(num_items):
        begin = last * (last + 1) // 2
        sums = best[: last + 1] + of_set[begin : begin + last + 1]
        first[last] = sums.argmin(axis=0)
        best[last + 1] = sums.min(axis=0)
    chosen = np.zeros(prices.shape, dtype=bool)
    left, sites = np.full(num_sites, num_items - 1), np.arange(num_sites)
    for _ in range(num_items):
        going = left >= 0
        at, site = left[going], sites[going]
        own = first[at, site]
        chosen[site, at * (at + 1) // 2 + own] = True
        left[going] = own - 1
    return chosen
