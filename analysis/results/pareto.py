"""Pareto fronts: what cannot be bettered in one goal without loss in another."""

import numpy as np


def pareto_front(goals: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates: at most as large in every column, smaller in one.

    Of equal rows the first is taken.

    Args:
        goals: to be small, float ``[num_points, num_goals]``.

    Returns:
        bool ``[num_points]``.
    """
    order = np.lexsort(goals.T[::-1])
    chosen = np.zeros(len(goals), dtype=bool)
    front = np.empty((0, goals.shape[1]))
    for index in order:
        if not (front <= goals[index]).all(axis=1).any():
            front = np.vstack([front, goals[index]])
            chosen[index] = True
    return chosen
