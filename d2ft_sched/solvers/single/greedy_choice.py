"""A feasible choice near the relaxation's optimum, to start the search with."""

from collections.abc import Iterator

import numpy as np

MAX_UPGRADES = 1024
"""Upgrades tried per knapsack, best first; the search improves on the rest."""


def greedy_choice(
    value: np.ndarray, cost: np.ndarray, allowed: np.ndarray, price: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take the best operations at the given prices, relieve what is over, fill what is left.

    Args:
        value: float ``[num_operations, num_knapsacks, width]``.
        cost: float ``[num_resources, num_operations, num_knapsacks, width]``; each resource's limit
            is 1.
        allowed: bool ``[num_operations, num_knapsacks, width]``.
        price: float ``[num_resources, num_knapsacks]``.

    Returns:
        Operations, int ``[num_knapsacks, width]``, and whether they fit, bool ``[num_knapsacks]``
        (where they do not, the greedy found nothing; there may still be a feasible choice).
    """
    reduced = np.where(allowed, value - priced(cost, price), -np.inf)
    operation = reduced.argmax(axis=0)
    spent = _spent(cost, operation)
    over = (spent > 1).any(axis=0)
    if over.any():
        _relieve(value, cost, allowed, price, operation, spent)
        over = (spent > 1).any(axis=0)
        free = (cost.sum(axis=0) == 0) & allowed
        fallback = np.where(free, value, -np.inf).argmax(axis=0)
        usable = over & free.any(axis=0).all(axis=1)
        operation[usable] = fallback[usable]
        spent[:, usable] = 0.0
    _fill(value, cost, allowed, operation, spent)
    return operation, np.all(spent <= 1, axis=0)


def priced(cost: np.ndarray, price: np.ndarray) -> np.ndarray:
    """sum over resources of price * cost, float ``[num_operations, num_knapsacks, width]``."""
    total = np.zeros(cost.shape[1:])
    for c, p in zip(cost, price, strict=True):
        total += c * p[:, None]
    return total


def at_operation(table: np.ndarray, operation: np.ndarray) -> np.ndarray:
    """Entries of ``table [num_operations, num_knapsacks, width]`` at the operations."""
    return np.take_along_axis(table, operation[None], axis=0)[0]


def _spent(cost: np.ndarray, operation: np.ndarray) -> np.ndarray:
    num_knapsacks = operation.shape[0]
    spent = np.empty((len(cost), num_knapsacks))
    for r, c in enumerate(cost):
        spent[r] = at_operation(c, operation).sum(axis=1)
    return spent


def _changes(
    value: np.ndarray, cost: np.ndarray, operation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gain in value and in cost of every operation against the chosen one."""
    gain = value - at_operation(value, operation)
    extra = np.stack([c - at_operation(c, operation) for c in cost]) if len(cost) else cost
    return gain, extra


def _relieve(
    value: np.ndarray,
    cost: np.ndarray,
    allowed: np.ndarray,
    price: np.ndarray,
    operation: np.ndarray,
    spent: np.ndarray,
) -> None:
    """Change to cheaper operations until all fits, least value lost per price first, in place."""
    gain, extra = _changes(value, cost, operation)
    cheaper = allowed & (extra <= 0).all(axis=0) & (extra < 0).any(axis=0)
    saved = np.maximum(-priced(extra, price), 1e-30)
    rate = np.where(cheaper, -gain / saved, np.inf)
    for row, item, new in _moves_in_order(rate, max_moves=rate[:, 0].size):
        over = spent > 1
        if not over.any():
            return
        extra = cost[:, new, row, item] - cost[:, operation[row, item], row, item]
        helps = (over[:, row] & (extra < 0)).any(axis=0) & (extra <= 0).all(axis=0)
        _apply(operation, spent, extra, helps, row, item, new)


def _fill(
    value: np.ndarray,
    cost: np.ndarray,
    allowed: np.ndarray,
    operation: np.ndarray,
    spent: np.ndarray,
) -> None:
    """Change to better operations that fit, most value per cost first, in place."""
    gain, extra = _changes(value, cost, operation)
    largest = np.maximum(extra.max(axis=0, initial=0.0), 1e-12)
    rate = np.where(allowed & (gain > 0), -gain / largest, np.inf)
    for row, item, new in _moves_in_order(rate, MAX_UPGRADES):
        old = operation[row, item]
        extra = cost[:, new, row, item] - cost[:, old, row, item]
        better = value[new, row, item] > value[old, row, item]
        fits = (spent[:, row] + extra <= 1).all(axis=0)
        _apply(operation, spent, extra, better & fits, row, item, new)


def _moves_in_order(
    rate: np.ndarray, max_moves: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(knapsacks, items, operations) of each knapsack's lowest finite rate, second lowest, ..."""
    num_operations, num_knapsacks, width = rate.shape
    by_knapsack = np.moveaxis(rate, 0, 2).reshape(num_knapsacks, width * num_operations)
    order = np.argsort(by_knapsack, axis=1)
    num_moves = np.isfinite(by_knapsack).sum(axis=1)
    for j in range(min(max_moves, int(num_moves.max(initial=0)))):
        row = np.flatnonzero(j < num_moves)
        item, new = np.divmod(order[row, j], num_operations)
        yield row, item, new


def _apply(
    operation: np.ndarray,
    spent: np.ndarray,
    extra: np.ndarray,
    accepted: np.ndarray,
    row: np.ndarray,
    item: np.ndarray,
    new: np.ndarray,
) -> None:
    operation[row[accepted], item[accepted]] = new[accepted]
    spent[:, row[accepted]] += extra[:, accepted]
