"""Sums of the best items before and after a split, for all splits and many knapsacks at once.

With the items of a knapsack sorted by their advantage of FULL over FORWARD_ONLY, FULL items come
from before a split and FORWARD_ONLY items from after it. Moving the split past an item of gain x
turns the sum G[j] of the best j gains before it into max(G[j], G[j-1] + x), and the sum H[j] of
those after it into min(H[j], H[j+1] - x).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.schedule.operations import Operation


@dataclass(frozen=True, eq=False)
class SortedGains:
    """Gains over SHORTCUT by falling advantage of FULL, padding last.

    Attributes:
        order: position of each item, int ``[num_knapsacks, width]``.
        full: gain of FULL, float of the same shape; -inf in the padding.
        forward: gain of FORWARD_ONLY; not below 0 (and 0 in the padding) where `clamped`.
        clamped: whether a FORWARD_ONLY that gains less than nothing stands for SHORTCUT.
    """

    order: np.ndarray
    full: np.ndarray
    forward: np.ndarray
    clamped: bool

    @property
    def width(self) -> int:
        return int(self.order.shape[1])


def sorted_gains(value: np.ndarray, present: np.ndarray, *, clamped: bool) -> SortedGains:
    """Sort the items of each knapsack.

    Args:
        value: float ``[num_knapsacks, width, 3]``.
        present: whether it is an item or padding, bool ``[num_knapsacks, width]``.
        clamped: see `SortedGains`; for knapsacks where SHORTCUT is never dearer.
    """
    base = value[..., Operation.SHORTCUT]
    forward = np.where(present, value[..., Operation.FORWARD_ONLY] - base, -np.inf)
    full = np.where(present, value[..., Operation.FULL] - base, -np.inf)
    if clamped:
        np.maximum(forward, 0.0, out=forward)
    advantage = np.subtract(full, forward, out=np.full(full.shape, -np.inf), where=present)
    order = np.argsort(-advantage, axis=1)
    return SortedGains(
        order,
        np.take_along_axis(full, order, axis=1),
        np.take_along_axis(forward, order, axis=1),
        clamped,
    )


def sweep(gains: SortedGains, height: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sums before and after each split, for splits 0 to width.

    Yields:
        Sums of the best j FULL gains before the split, float ``[height, num_knapsacks]``, and of
        the best j FORWARD_ONLY gains after it, float ``[width + 2, num_knapsacks]``; -inf where
        there are not so many, and in the last row. Both are changed by the next step.
    """
    full, forward = gains.full.T.copy(), gains.forward.T.copy()
    width, num_knapsacks = full.shape
    before = np.full((height, num_knapsacks), -np.inf)
    before[0] = 0.0
    after = np.empty((width + 2, num_knapsacks))
    after[0], after[width + 1] = 0.0, -np.inf
    np.cumsum(-np.sort(-forward, axis=0), axis=0, out=after[1 : width + 1])
    deleted = np.where(np.isfinite(forward), forward, 0.0)
    yield before, after
    for item in range(width):
        np.maximum(before[1:], before[:-1] + full[item], out=before[1:])
        last = after[width] - deleted[item]
        without = after[2 : width + 1] - deleted[item]
        np.minimum(after[1:width], without, out=after[1:width])
        after[width] = last if gains.clamped else -np.inf
        yield before, after


def operations_at(
    gains: SortedGains, split: np.ndarray, num_full: np.ndarray, num_forward: np.ndarray
) -> np.ndarray:
    """The choice with the given counts at the given split, one of each per knapsack.

    Returns:
        Operations in the items' own order, int8 ``[num_knapsacks, width]``.
    """
    before = np.arange(gains.width) < split[:, None]
    operation = np.zeros(gains.order.shape, dtype=np.int8)
    _mark(operation, np.where(before, gains.full, -np.inf), num_full, Operation.FULL)
    _mark(operation, np.where(before, -np.inf, gains.forward), num_forward, Operation.FORWARD_ONLY)
    if gains.clamped:
        useless = (operation == Operation.FORWARD_ONLY) & (gains.forward <= 0)
        operation[useless] = Operation.SHORTCUT
    unsorted = np.empty_like(operation)
    np.put_along_axis(unsorted, gains.order, operation, axis=1)
    return unsorted


def _mark(operation: np.ndarray, gain: np.ndarray, count: np.ndarray, choice: Operation) -> None:
    """Set `choice` at the `count` largest finite gains of each row, in place."""
    ranked = np.argsort(-gain, axis=1)
    available = np.isfinite(np.take_along_axis(gain, ranked, axis=1))
    taken = available & (np.arange(gain.shape[1]) < count[:, None])
    row = np.nonzero(taken)[0]
    operation[row, ranked[taken]] = choice
