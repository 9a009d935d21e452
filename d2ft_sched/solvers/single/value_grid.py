"""The step in which a knapsack's total value can change, where its values lie on a grid."""

import numpy as np

DIVISORS = (1, 2, 3, 4, 5, 6)
"""The step is looked for among the smallest difference of values and these parts of it."""

MAX_STEPS = 1e7
"""With more steps than this in the sum of all differences, rounding could hide one step."""


def value_step(value: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """A step of which all choices' total values differ by multiples, float ``[num_knapsacks]``.

    It is 0 where none was found. Uniform scores have one, measured scores do not.

    Args:
        value: float ``[num_operations, num_knapsacks, width]``.
        allowed: bool of the same shape.
    """
    reference = np.take_along_axis(value, allowed.argmax(axis=0)[None], axis=0)
    difference = np.abs(value - reference) * allowed
    smallest = np.where(difference > 0, difference, np.inf).min(axis=(0, 2))
    total = difference.sum(axis=(0, 2))
    step = np.zeros(len(smallest))
    undecided = np.isfinite(smallest)
    for divisor in DIVISORS:
        k = np.flatnonzero(undecided & (total * divisor < MAX_STEPS * smallest))
        if not len(k):
            break
        candidate = smallest[k] / divisor
        ratio = difference[:, k] / candidate[:, None]
        exact = (np.abs(ratio - np.rint(ratio)) <= 1e-9 * ratio).all(axis=(0, 2))
        step[k[exact]] = candidate[exact]
        undecided[k[exact]] = False
    return step
