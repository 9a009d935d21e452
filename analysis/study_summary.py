"""What a study found: means and spreads over seeds, and time to accuracy."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.plots.save import save_both
from analysis.plots.study import accuracy_against
from analysis.study_table import CURVES, RUNS, load_table
from d2ft_sched.atomic_write import write_text
from d2ft_sched.errors import InputError

GROUP = ["cluster", "budget", "method"]
MEANS = (
    "compute_fraction",
    "communication_fraction",
    "workload_cv",
    "simulated_step_s",
    "simulated_total_s",
    "measured_train_s",
    "solver_share_of_step",
)
PLOTS = {"compute_fraction": "accuracy_flops", "simulated_s": "accuracy_seconds"}


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cluster, budget and method: seeds, top-1 as mean and standard deviation over
    seeds, and the means of `MEANS`; in the order of first appearance."""
    runs = runs.dropna(subset=["top1"])
    groups = runs.groupby(GROUP, sort=False)
    table = groups[list(MEANS)].mean()
    table.insert(0, "num_seeds", groups["seed"].nunique())
    table.insert(1, "top1_mean", groups["top1"].mean())
    table.insert(2, "top1_std", groups["top1"].std(ddof=1))
    return table.reset_index()


def seconds_to_accuracy(curves: pd.DataFrame, top1: float) -> pd.DataFrame:
    """Simulated seconds until the mean over seeds first reaches an accuracy, by line between
    evaluations; NaN where it never does. Columns `GROUP` and ``seconds``."""
    rows = []
    for group, own in curves.groupby(GROUP, sort=False):
        mean = own.groupby("epoch")[["simulated_s", "top1"]].mean()
        rows.append((*group, _first(mean["simulated_s"], mean["top1"], top1)))
    return pd.DataFrame(rows, columns=[*GROUP, "seconds"])


def _first(x: pd.Series, y: pd.Series, level: float) -> float:
    xs, ys = x.to_numpy(), y.to_numpy()
    reached = np.flatnonzero(ys >= level)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(xs[0])
    part = (level - ys[i - 1]) / (ys[i] - ys[i - 1])
    return float(xs[i - 1] + part * (xs[i] - xs[i - 1]))


def write_summary(out: Path) -> pd.DataFrame:
    """Write ``summary.csv`` and the plots of a study's folder; the table."""
    runs = load_table(out / RUNS, [*GROUP, "seed"])
    if "top1" not in runs:
        why = f": {runs['note'].iloc[0]}" if "note" in runs else ""
        raise InputError(f"{out / RUNS}: no run has an accuracy{why}")
    table = summary_table(load_table(out / RUNS, [*GROUP, "seed", "top1", *MEANS]))
    curves = load_table(out / CURVES, [*GROUP, "epoch", "top1", *PLOTS])
    write_text(out / "summary.csv", table.to_csv(index=False))
    for cluster, own in curves.groupby("cluster", sort=False):
        for column, name in PLOTS.items():
            save_both(accuracy_against(own, column), out, f"{name}_{cluster}")
    return table
