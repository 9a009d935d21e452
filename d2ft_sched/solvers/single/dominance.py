"""Which states of a knapsack no other one makes superfluous."""

import numpy as np

COMPARED_DISTANCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""With several resources a state is compared with those this far before it by total cost."""


def undominated(knapsack: np.ndarray, spent: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices of the states to keep, by knapsack.

    A state is superfluous if another of its knapsack spends no more of anything and is worth no
    less (of equal ones, one stays). All such states go with up to one resource; with more, only
    those found by comparing near neighbours, which is enough to keep a search small.

    Args:
        knapsack: int ``[num_states]``.
        spent: float ``[num_resources, num_states]``.
        value: float ``[num_states]``.
    """
    if len(spent) <= 1:
        order = np.lexsort((-value, *spent, knapsack))
        return order[value[order] > _best_before(knapsack[order], value[order])]
    total = spent.sum(axis=0)
    total -= total.min(initial=0.0)
    order = np.argsort(knapsack + total / (total.max(initial=0.0) + 1))
    knapsack, spent, value = knapsack[order], spent[:, order], value[order]
    kept = np.ones(len(order), dtype=bool)
    for distance in COMPARED_DISTANCES:
        if distance >= len(order):
            break
        worse = knapsack[:-distance] == knapsack[distance:]
        worse &= value[:-distance] >= value[distance:]
        for s in spent:
            worse &= s[:-distance] <= s[distance:]
        kept[distance:] &= ~worse
    return order[kept]


def _best_before(knapsack: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Largest value of the states before each one in its knapsack; -inf for the first."""
    first = np.flatnonzero(np.append(True, knapsack[1:] != knapsack[:-1])[: len(knapsack)])
    count = np.diff(np.append(first, len(knapsack)))
    row = np.repeat(np.arange(len(first)), count)
    column = np.arange(len(knapsack)) - first[row]
    padded = np.full((len(first), int(count.max(initial=0)) + 1), -np.inf)
    padded[row, column + 1] = value
    return np.maximum.accumulate(padded, axis=1)[row, column]
