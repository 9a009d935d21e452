"""Accuracy after every epoch, and what others have reached for what the dense run has spent."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.console.formatting import quantity
from analysis.studying.study_grid import ANY_BUDGET

SHOWN_EPOCHS = (1, 2, 3, 4)
"""Besides the last."""
EQUAL = {
    "simulated_s": "predicted seconds on the cluster",
    "gradient_fraction": "gradient values to be sent, of the dense run's",
}
"""Columns of ``curves.csv`` in which methods are compared at equal cost, in words."""
MORE = "+"
"""Behind an accuracy of a training that has ended with less spent: longer ones were not tried."""


def epochs_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of one cluster's methods after `SHOWN_EPOCHS` and the last, as texts."""
    last = int(curves["epoch"].max())
    epochs = sorted({epoch for epoch in SHOWN_EPOCHS if epoch < last} | {last})
    rows = []
    for method, own in _methods(curves):
        by_epoch = own.groupby("epoch")["top1"]
        reached = {
            f"epoch {epoch}": _spread(by_epoch.get_group(epoch)) if epoch in by_epoch.groups else ""
            for epoch in epochs
        }
        rows.append(method | {"seeds": str(own["seed"].nunique())} | reached)
    return pd.DataFrame(rows)


def equal_cost_table(curves: pd.DataFrame, column: str) -> pd.DataFrame:
    """Top-1 of one cluster's methods when they have spent what the first dense method has after its
    epochs, by line between evaluations, as texts; `MORE` behind those of trainings that had ended.

    Args:
        curves: of one cluster.
        column: of what is spent, a key of `EQUAL`.
    """
    dense = curves[curves["budget"] == ANY_BUDGET]
    dense = dense[dense["method"] == dense["method"].iloc[0]] if len(dense) else dense
    spent = dense[dense["epoch"] > 0].groupby("epoch")[column].mean()
    rows = []
    for method, own in _methods(curves):
        reached = {}
        for level in spent:
            found = [_reached(of_seed, column, level) for _, of_seed in own.groupby("seed")]
            ended = all(
                of_seed[column].max() < level * (1 - 1e-6) for _, of_seed in own.groupby("seed")
            )
            name = f"{quantity(level, 's')}" if column == "simulated_s" else f"{100 * level:.0f} %"
            reached[name] = _spread(pd.Series(found)) + (MORE if ended else "")
        rows.append(method | reached)
    return pd.DataFrame(rows)


def _methods(curves: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    for (method, budget), own in curves.groupby(["method", "budget"], sort=False):
        yield {"method": str(method), "budget": str(budget)}, own


def _reached(curve: pd.DataFrame, column: str, level: float) -> float:
    ordered = curve.sort_values("epoch")
    return float(np.interp(level, ordered[column], ordered["top1"]))


def _spread(top1: pd.Series) -> str:
    if not len(top1):
        return ""
    spread = "" if len(top1) < 2 else f" \N{PLUS-MINUS SIGN} {100 * top1.std(ddof=1):.1f}"
    return f"{100 * top1.mean():.1f}{spread}"
