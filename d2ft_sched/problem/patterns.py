"""Which subnets of a block on a device do the same with every micro-batch, so that few pieces run.

A pattern is a row of operations, one for each micro-batch. Subnets of one pattern are decided
together, by what they bring and cost together.
"""

import numpy as np

ROUNDING = 1e-9

NUM_HALVINGS = 60
"""Of the range in which a price lies."""

TOO_MUCH = 1e6
"""Capacities that an operation spends of a resource of which there is nothing."""


def patterns(
    value: np.ndarray,
    cost: np.ndarray,
    knapsack: np.ndarray,
    capacity: np.ndarray,
    site: np.ndarray,
    most: int,
) -> np.ndarray:
    """The pattern of each subnet, int ``[num_subnets]``, numbered by their first subnets.

    Operations are priced so that each subnet's own best choice keeps the capacities. Of a site all
    subnets begin apart; then, again and again, those two patterns become one that lose the least
    value beyond price by doing the same, until there are few enough. So what can be done with more
    patterns includes what can be done with fewer.

    Args:
        value: float ``[num_subnets, num_microbatches, num_operations]``.
        cost: float ``[num_resources, num_subnets, num_microbatches, num_operations]``.
        knapsack: who pays for each subnet, int ``[num_subnets]``.
        capacity: float ``[num_knapsacks, num_resources]``, ``inf`` where free.
        site: subnets of different ones stay apart, int ``[num_subnets]``.
        most: patterns of a site, at least 1.
    """
    gain = _beyond_price(value, cost, knapsack, capacity)
    pattern = np.arange(len(value))
    for own in (np.flatnonzero(site == one) for one in np.unique(site)):
        pattern[own] = own[_merged(gain[own], most)]
    return np.unique(pattern, return_inverse=True)[1].ravel()


def _beyond_price(
    value: np.ndarray, cost: np.ndarray, knapsack: np.ndarray, capacity: np.ndarray
) -> np.ndarray:
    """Value without what it costs at a price of capacity that keeps every knapsack's: midway
    between the least and the highest at which the same is spent; as `value`."""
    limit = np.moveaxis(capacity[knapsack], 1, 0)[:, :, None, None]
    share = np.divide(cost, limit, out=np.where(cost > 0, TOO_MUCH, 0.0), where=limit > 0)
    total = share.sum(axis=0)

    def spent(price: np.ndarray) -> np.ndarray:
        choice = (value - price[knapsack][:, None, None] * total).argmax(axis=2)
        chosen = np.take_along_axis(share, choice[None, ..., None], axis=3)[..., 0].sum(axis=2)
        of_knapsack = np.zeros((len(capacity), len(cost)))
        np.add.at(of_knapsack, knapsack, chosen.T)
        return of_knapsack

    def least(low: np.ndarray, high: np.ndarray, most: np.ndarray) -> np.ndarray:
        """The least price between two at which each spends at most so much."""
        for _ in range(NUM_HALVINGS):
            price = (low + high) / 2
            keeps = (spent(price) <= most).all(axis=1)
            high, low = np.where(keeps, price, high), np.where(keeps, low, price)
        return high

    worth = np.divide(value, total, out=np.zeros_like(value), where=total > 0)
    nothing, highest = np.zeros(len(capacity)), np.zeros(len(capacity))
    np.maximum.at(highest, knapsack, worth.max(axis=(1, 2), initial=0.0))
    highest *= 1 + ROUNDING
    lowest = least(nothing, highest, np.full((len(capacity), len(cost)), 1 + ROUNDING))
    next_lowest = least(lowest, highest, spent(lowest) * (1 - ROUNDING))
    price = (lowest + next_lowest) / 2
    return value - price[knapsack][:, None, None] * total


def _merged(gain: np.ndarray, most: int) -> np.ndarray:
    """The first subnet of each one's pattern, int ``[n]``, of gains ``[n, num_microbatches,
    num_operations]`` of a site."""
    first, together, is_left = np.arange(len(gain)), gain.copy(), np.ones(len(gain), dtype=bool)
    own = _most(together)
    loss = np.stack([own[i] + own - _most(together[i] + together) for i in first])
    loss[np.tril_indices(len(gain))] = np.inf
    for _ in range(len(gain) - most):
        kept, gone = (int(i) for i in np.unravel_index(loss.argmin(), loss.shape))
        together[kept] += together[gone]
        first[first == gone] = kept
        is_left[gone] = False
        own[kept] = _most(together[kept])
        again = np.where(is_left, own[kept] + own - _most(together[kept] + together), np.inf)
        loss[gone], loss[:, gone] = np.inf, np.inf
        loss[kept, kept + 1 :], loss[:kept, kept] = again[kept + 1 :], again[:kept]
    return first


def _most(gain: np.ndarray) -> np.ndarray:
    """Of the best operation for every micro-batch; over the last two axes of `gain`."""
    return np.asarray(gain.max(axis=-1).sum(axis=-1))
