"""Programmes on a grid that a backend can tell apart: rounded so that what it proves is true.

Backends tell numbers apart to about 1e-9 of the largest, and CP-SAT rounds them to integers its own
way, so that over many decades an optimum or infeasibility that they prove may be none. Rounded in
our way, a programme has no such decades: as a relaxation every schedule stays in and is worth no
less, so that its bound and its infeasibility hold for the problem; as a restriction every schedule
of it keeps the capacities.
"""

from dataclasses import replace

import numpy as np

from d2ft_sched.solvers.mip_arrays import MipArrays

GRID = 2.0**28
"""Steps to the largest coefficient of the objective and of rows that are not whole."""

MARGIN = 4e-6
"""Relative capacity that a restriction keeps back, for backends that go over it themselves."""


def relaxed(arrays: MipArrays) -> MipArrays:
    """In units of the grid: integers that are worth no less and cost no more."""
    return _on_grid(arrays, np.floor(_scaled(arrays)), np.ceil(_scaled_upper(arrays)))


def restricted(arrays: MipArrays) -> MipArrays:
    """In units of the grid: integers that cost no less, within less than is left."""
    upper = _scaled_upper(arrays)
    kept_back = np.where(arrays.whole, 0.0, MARGIN * GRID)
    return _on_grid(arrays, np.ceil(_scaled(arrays)), np.floor(upper - kept_back))


def as_fractions(arrays: MipArrays) -> MipArrays:
    """Of a programme on the grid: what is not whole back at most at 1, without rounding."""
    return replace(
        arrays,
        objective=arrays.objective / GRID,
        scale=arrays.scale * GRID,
        coefficient=arrays.coefficient / np.where(arrays.whole, 1.0, GRID)[arrays.row],
        upper=arrays.upper / np.where(arrays.whole, 1.0, GRID),
    )


def _scaled(arrays: MipArrays) -> np.ndarray:
    return arrays.coefficient * np.where(arrays.whole, 1.0, GRID)[arrays.row]


def _scaled_upper(arrays: MipArrays) -> np.ndarray:
    return arrays.upper * np.where(arrays.whole, 1.0, GRID)


def _on_grid(arrays: MipArrays, coefficient: np.ndarray, upper: np.ndarray) -> MipArrays:
    return replace(
        arrays,
        objective=np.ceil(arrays.objective * GRID),
        scale=arrays.scale / GRID,
        coefficient=coefficient,
        upper=upper,
    )
