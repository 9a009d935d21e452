"""Prices of shared rows from the options collected so far: a smoothed dual.

The dual of choosing one option per knapsack is piecewise linear in the prices, and its minimum over
few options jumps from round to round. With the maximum over a knapsack's options replaced by
T log sum exp(. / T) it is smooth, its minimiser is stable, and a quasi-Newton method finds it.
"""

import numpy as np
from scipy.optimize import minimize

from d2ft_sched.solvers.coupled.knapsack_options import Options

MAX_ITERATIONS = 20


def smoothed_prices(
    options: Options, centre: np.ndarray, radius: np.ndarray, temperature: float
) -> np.ndarray:
    """Prices that minimise the smoothed dual over the options, near prices that are known.

    Few options say little about prices far from those at which they were found, so the search
    keeps to a box around the best prices so far.

    Args:
        options: at least one per knapsack.
        centre: float >= 0 ``[num_rows]``.
        radius: largest change of each row's price.
        temperature: smoothing T, in units of value; the dual is off by at most
            T log(number of options) per knapsack.
    """
    rows = options.rows
    spread = options.usage.var(axis=0)
    unit = 1 / np.sqrt(np.bincount(rows.pair_row, spread, minlength=rows.num_rows) + 1e-12)
    magnitude = 1e-4 * (float(np.abs(options.value).max(axis=0).sum()) or 1.0)

    def dual(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        price = scaled * unit
        reduced = options.reduced(price)
        top = reduced.max(axis=0)
        weight = np.exp((reduced - top) / temperature)
        total = weight.sum(axis=0)
        share = (weight / total)[:, rows.pair_knapsack]
        usage = rows.row_usage((share * options.usage).sum(axis=0))
        bound = (top + temperature * np.log(total)).sum() + price @ rows.limit
        return bound / magnitude, (rows.limit - usage) * unit / magnitude

    result = minimize(
        dual,
        centre / unit,
        jac=True,
        method="L-BFGS-B",
        bounds=np.stack([np.maximum(centre - radius, 0.0), centre + radius], axis=1)
        / unit[:, None],
        options={"maxiter": MAX_ITERATIONS, "maxcor": 20, "ftol": 1e-13, "gtol": 1e-10},
    )
    return np.asarray(result.x) * unit
