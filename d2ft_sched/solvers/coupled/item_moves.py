"""Changes of single items that add value within all constraints."""

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.coupled.shared_rows import SharedRows

MAX_ROUNDS = 200


def filled(problem: Problem, rows: SharedRows, operation: np.ndarray) -> np.ndarray:
    """Better operations wherever they fit into what is left, most value per share of it first.

    Args:
        problem: the problem.
        rows: its shared rows.
        operation: of each item, int8 ``[num_items]``; keeps every constraint.

    Returns:
        Operations of at least the same value that keep every constraint.
    """
    operation = operation.copy()
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, NUM_OPERATIONS)
    knapsack = problem.knapsack.ravel()
    item = np.arange(problem.num_items)
    open_items = item
    for _ in range(MAX_ROUNDS):
        schedule = operation.reshape(problem.num_subnets, problem.num_microbatches)
        left = problem.admitted - problem.spending(schedule)
        row_left = rows.limit - rows.row_usage(rows.pair_usage(operation))
        best_rate = np.full(len(open_items), np.inf)
        best_operation = operation[open_items].copy()
        for new in range(NUM_OPERATIONS):
            now = operation[open_items]
            gain = value[open_items, new] - value[open_items, now]
            share = np.zeros(len(open_items))
            for r, c in enumerate(cost):
                share = np.maximum(
                    share,
                    _share(c[open_items, new] - c[open_items, now], left[knapsack[open_items], r]),
                )
            for row, weight in zip(rows.row, rows.weight, strict=True):
                extra = weight[open_items, new] - weight[open_items, now]
                share = np.maximum(
                    share, _share(extra, np.append(row_left, np.inf)[row[open_items]])
                )
            better = (gain > 1e-12 * np.abs(value[open_items]).max(axis=1)) & (share <= 1)
            rate = np.where(better, -gain / np.maximum(share, 1e-12), np.inf)
            improved = rate < best_rate
            best_rate[improved] = rate[improved]
            best_operation[improved] = new
        candidates = np.flatnonzero(np.isfinite(best_rate))
        if not len(candidates):
            break
        open_items, best_rate = open_items[candidates], best_rate[candidates]
        accepted = _compatible(
            rows, open_items, best_rate, operation, best_operation[candidates], knapsack, row_left
        )
        operation[open_items[accepted]] = best_operation[candidates][accepted]
    return operation


def _share(extra: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Part of what is left that a change takes; inf if it does not fit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(extra > 0, extra / left, 0.0)
    return np.where((extra > 0) & ~(extra <= left), np.inf, share)


def _compatible(
    rows: SharedRows,
    item: np.ndarray,
    rate: np.ndarray,
    operation: np.ndarray,
    new: np.ndarray,
    knapsack: np.ndarray,
    row_left: np.ndarray,
) -> np.ndarray:
    """The best candidate of each knapsack, as far as the shared rows hold them together."""
    order = np.lexsort((rate, knapsack[item]))
    owner = knapsack[item[order]]
    first = order[np.append(True, owner[1:] != owner[:-1])]
    chosen = first[np.argsort(rate[first])]
    fits = fit_in_rows(rows, item[chosen], operation[item[chosen]], new[chosen], row_left)
    accepted = np.zeros(len(item), dtype=bool)
    accepted[chosen[fits]] = True
    return accepted


def fit_in_rows(
    rows: SharedRows, item: np.ndarray, old: np.ndarray, new: np.ndarray, row_left: np.ndarray
) -> np.ndarray:
    """Which changes the shared rows hold together, if those that come first go first.

    A change counts against the later ones even where it is refused itself, so that the answer errs
    on the safe side.

    Args:
        rows: the shared rows.
        item: items to change, in order of preference, each at most once.
        old: their operations.
        new: their operations after the change.
        row_left: what is left of each row, float ``[num_rows]``.
    """
    fits = np.ones(len(item), dtype=bool)
    for row, weight in zip(rows.row, rows.weight, strict=True):
        inside = np.flatnonzero(row[item] >= 0)
        counted = item[inside]
        extra = weight[counted, new[inside]] - weight[counted, old[inside]]
        by_row = np.argsort(row[counted], kind="stable")
        where, extra = row[counted][by_row], extra[by_row]
        running = np.cumsum(np.maximum(extra, 0.0))
        start = np.append(True, where[1:] != where[:-1])[: len(where)]
        before = np.where(start, np.append(0.0, running)[: len(running)], 0.0)
        too_much = (extra > 0) & (running - np.maximum.accumulate(before) > row_left[where])
        fits[inside[by_row[too_much]]] = False
    return fits
