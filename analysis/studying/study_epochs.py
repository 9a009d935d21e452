"""What is reached after every epoch, and by others for what the dense run has spent."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.console.formatting import percent, quantity
from analysis.studying.study_grid import ANY_BUDGET

SHOWN_EPOCHS = (1, 2, 3, 4)
"""Besides the last."""
EQUAL = {
    "simulated_s": "predicted seconds on the cluster",
    "gradient_fraction": "gradient values to be sent, of the dense run's",
}
"""Columns of ``curves.csv`` in which methods are compared at equal cost, in words."""
REACHED = {"top1": "Top-1", "test_loss": "Mean loss held out"}
"""Columns of ``curves.csv`` that say what a training reaches, in words."""
MORE = "+"
"""Behind what a training reached that has ended with less spent: longer ones were not tried."""


def epochs_table(curves: pd.DataFrame, reached: str = "top1") -> pd.DataFrame:
    """What one cluster's methods reach after `SHOWN_EPOCHS` and the last, as texts.

    Args:
        curves: of one cluster.
        reached: a key of `REACHED`.
    """
    last = int(curves["epoch"].max())
    epochs = sorted({epoch for epoch in SHOWN_EPOCHS if epoch < last} | {last})
    rows = []
    for method, own in _methods(curves):
        by_epoch = {epoch: of_epoch[reached] for epoch, of_epoch in own.groupby("epoch")}
        after = {
            f"epoch {epoch}": _spread(by_epoch[epoch], reached) if epoch in by_epoch else ""
            for epoch in epochs
        }
        rows.append(method | {"seeds": str(own["seed"].nunique())} | after)
    return pd.DataFrame(rows)


def equal_cost_table(curves: pd.DataFrame, column: str, reached: str = "top1") -> pd.DataFrame:
    """What one cluster's methods reach when they have spent what the first dense method has after
    its epochs, by line between evaluations, as texts; `MORE` behind trainings that had ended.

    Args:
        curves: of one cluster.
        column: of what is spent, a key of `EQUAL`.
        reached: a key of `REACHED`.
    """
    dense = curves[curves["budget"] == ANY_BUDGET]
    dense = dense[dense["method"] == dense["method"].iloc[0]] if len(dense) else dense
    spent = dense[dense["epoch"] > 0].groupby("epoch")[column].mean()
    rows = []
    for method, own in _methods(curves):
        at = {}
        for level in spent:
            found = [
                _reached(of_seed, column, level, reached) for _, of_seed in own.groupby("seed")
            ]
            ended = all(
                of_seed[column].max() < level * (1 - 1e-6) for _, of_seed in own.groupby("seed")
            )
            name = quantity(level, "s") if column == "simulated_s" else percent(level)
            at[name] = _spread(pd.Series(found), reached) + (MORE if ended else "")
        rows.append(method | at)
    return pd.DataFrame(rows)


def _methods(curves: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for (method, budget), own in curves.groupby(["method", "budget"], sort=False):
        yield {"method": str(method), "budget": str(budget)}, own


def _reached(curve: pd.DataFrame, column: str, level: float, reached: str) -> float:
    ordered = curve.sort_values("epoch")
    return float(np.interp(level, ordered[column], ordered[reached]))


def _spread(values: pd.Series, reached: str) -> str:
    """Mean and standard deviation, of top-1 in percent."""
    factor, digits = (100, 1) if reached == "top1" else (1, 3)
    known = factor * values.dropna()
    if not len(known):
        return ""
    spread = "" if len(known) < 2 else f" \N{PLUS-MINUS SIGN} {known.std(ddof=1):.{digits}f}"
    return f"{known.mean():.{digits}f}{spread}"
