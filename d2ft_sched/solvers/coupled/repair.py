"""One option per knapsack within the shared rows: repair, then fill."""

import numpy as np

from d2ft_sched.solvers.coupled.knapsack_options import Options

MAX_ROUNDS = 200
USAGE_TOLERANCE = 1e-12
"""Rounding of a row's usage, in units of its limit."""


def repaired_and_filled(options: Options, taken: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Change options until every row holds, least loss first, then while that adds value.

    Args:
        options: to take from.
        taken: option of each knapsack, int ``[num_knapsacks]``.
        price: of each row; the worth of usage in rows that hold.

    Returns:
        Option of each knapsack; rows may still be broken where no option relieves them.
    """
    for step in (_repair_step, _fill_step):
        for _ in range(MAX_ROUNDS):
            changed = step(options, taken, price)
            if changed is None:
                break
            taken = changed
    return taken


def excess(options: Options, taken: np.ndarray) -> np.ndarray:
    """Usage above the limit of each row, float ``[num_rows]``."""
    return options.rows.row_usage(options.usage_of(taken)) - options.rows.limit


def _repair_step(options: Options, taken: np.ndarray, price: np.ndarray) -> np.ndarray | None:
    """Relieve every broken row by the cheapest changes; None if there are none left."""
    pair_row = options.rows.pair_row
    over = excess(options, taken)
    broken = over > USAGE_TOLERANCE
    if not broken.any():
        return None
    change = options.usage - options.usage_of(taken)
    in_broken = broken[pair_row]
    relief = np.where(in_broken, np.minimum(-change, over[pair_row]), 0.0)
    harm = ~in_broken & (change > np.maximum(-over, 0.0)[pair_row] + USAGE_TOLERANCE)
    relieved = options.sum_pairs(relief)
    lost = -(options.value - options.value[taken, np.arange(options.num_knapsacks)])
    lost += options.sum_pairs(np.where(in_broken, 0.0, change * price[pair_row]))
    rate = np.where(
        (relieved > USAGE_TOLERANCE) & (options.sum_pairs(harm.astype(float)) == 0),
        lost / np.maximum(relieved, USAGE_TOLERANCE),
        np.inf,
    )

    best = rate.argmin(axis=0)
    pair, so_far = _in_order(options, rate, best, np.maximum(-change, 0.0))
    if not len(pair):
        return None
    owner = options.rows.pair_knapsack[pair]
    step = change[best[owner], pair]
    row = pair_row[pair]
    wanted = broken[row] & (step < 0) & (so_far + step < over[row])
    changed = taken.copy()
    changed[owner[wanted]] = best[owner[wanted]]
    return changed if wanted.any() else None


def _fill_step(options: Options, taken: np.ndarray, price: np.ndarray) -> np.ndarray | None:
    """Changes that add value and fit together; None if there are none left."""
    pair_row = options.rows.pair_row
    left = np.maximum(-excess(options, taken), 0.0)
    change = options.usage - options.usage_of(taken)
    gain = options.value - options.value[taken, np.arange(options.num_knapsacks)]
    fits = options.sum_pairs((change > left[pair_row]).astype(float)) == 0
    paid = options.sum_pairs(np.maximum(change * price[pair_row], 0.0))
    threshold = 1e-12 * np.abs(options.value).max(axis=0)
    useful = fits & (gain > threshold)
    rate = np.full(gain.shape, np.inf)
    np.divide(-gain, np.maximum(paid, 1e-12 * np.abs(gain)), out=rate, where=useful)
    best = rate.argmin(axis=0)
    candidate = np.isfinite(rate[best, np.arange(options.num_knapsacks)])
    if not candidate.any():
        return None
    pair, so_far = _in_order(options, rate, best, np.maximum(change, 0.0))
    owner = options.rows.pair_knapsack[pair]
    candidate[owner[so_far > left[pair_row[pair]]]] = False
    return np.where(candidate, best, taken) if candidate.any() else None


def _in_order(
    options: Options, rate: np.ndarray, best: np.ndarray, amount: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of the knapsacks whose best rate is finite, and running sums of `amount` in their rows.

    Within a row the knapsacks come by rising rate; the sum includes the pair itself.
    """
    rows = options.rows
    rate = rate[best, np.arange(options.num_knapsacks)]
    pair = np.flatnonzero(np.isfinite(rate)[rows.pair_knapsack])
    pair = pair[np.lexsort((rate[rows.pair_knapsack[pair]], rows.pair_row[pair]))]
    row = rows.pair_row[pair]
    running = np.cumsum(amount[best[rows.pair_knapsack[pair]], pair])
    first = np.append(True, row[1:] != row[:-1])[: len(row)]
    before = np.where(first, np.append(0.0, running)[: len(row)], 0.0)
    return pair, running - np.maximum.accumulate(before)
