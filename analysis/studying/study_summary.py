"""What a study found: means and spreads over seeds, and time to accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.console.cells import Cell, Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import percent
from analysis.plots.save import save_both
from analysis.plots.training.method_accuracy import accuracy_against, accuracy_ranked
from analysis.results.file_names import file_names
from analysis.results.table_file import check_finite
from analysis.studying.study_epochs import EQUAL, MORE, REACHED, epochs_table, equal_cost_table
from analysis.studying.study_grid import ANY_BUDGET
from analysis.studying.study_table import CURVES, RUNS, load_table
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text

GROUP = ["cluster", "budget", "method"]
SPENT = ("workload_cv", "measured_train_s", "measured_scoring_s")
"""Columns of ``runs.csv`` that means of others are made from."""
MEANS = (
    "compute_fraction",
    "scoring_compute_fraction",
    "communication_fraction",
    "gradient_fraction",
    "peak_memory_bytes",
    "workload_variance",
    "simulated_step_s",
    "simulated_total_s",
    "measured_s",
    "solver_share_of_step",
)
SAVED = tuple(name for name in MEANS if name not in ("workload_variance", "measured_s"))
"""Means of columns that ``runs.csv`` has."""
PLOTS = {
    "compute_fraction": "accuracy_flops",
    "simulated_s": "accuracy_seconds",
    "measured_s": "accuracy_measured",
}


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cluster, budget and method, in the order of first appearance.

    Columns: seeds, top-1 as mean and standard deviation over seeds, its mean distance from the
    first dense method of the same cluster and seed, and the means of `MEANS`. Measured seconds are
    of training and scoring; the workload's variance is that of the devices' busy seconds over the
    square of their mean.
    """
    runs = runs.dropna(subset=["top1"]).copy()
    runs["workload_variance"] = runs["workload_cv"] ** 2
    runs["measured_s"] = runs["measured_train_s"] + runs["measured_scoring_s"]
    dense = runs[runs["budget"] == ANY_BUDGET].groupby(["cluster", "seed"])["top1"].first()
    of_dense = dense.reindex(pd.MultiIndex.from_frame(runs[["cluster", "seed"]])).to_numpy()
    runs["top1_less_dense"] = runs["top1"] - of_dense
    groups = runs.groupby(GROUP, sort=False)
    table = groups[list(MEANS)].mean()
    table.insert(0, "num_seeds", groups["seed"].nunique())
    table.insert(1, "top1_mean", groups["top1"].mean())
    table.insert(2, "top1_std", groups["top1"].std(ddof=1))
    table.insert(3, "top1_less_dense", groups["top1_less_dense"].mean())
    return table.reset_index()


FRACTIONS = ("compute", "communication", "gradient")
SECONDS = ("simulated_step_s", "simulated_total_s", "measured_s")
COLUMNS = (
    "method", "budget", "seeds", "top-1", "against dense", "compute", "bytes", "gradients",
    "memory", "workload variance", "step, predicted", "training, predicted",
    "training, measured", "solver",
)  # fmt: skip


def methods_table(summary: pd.DataFrame) -> Table:
    """A `summary_table` for people, a group for each cluster."""
    return Table(
        "Methods of the study: top-1 in percent, mean and standard deviation over seeds; against "
        "dense in points; compute, bytes and gradients to be sent of the dense run's; memory of "
        "the fullest device; workload variance of busy time over its mean; solver of a step",
        COLUMNS,
        tuple(
            (
                f"{cluster}: top-1 in percent, mean and standard deviation over seeds",
                tuple(map(_row, own.to_dict("records"))),
            )
            for cluster, own in summary.groupby("cluster", sort=False)
        ),
    )


def _row(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    """In the order of `COLUMNS`."""
    spread = "" if row["num_seeds"] < 2 else f" \N{PLUS-MINUS SIGN} {100 * row['top1_std']:.1f}"
    return (
        text_cell(row["method"]),
        text_cell(row["budget"]),
        number_cell(row["num_seeds"], str),
        number_cell(row["top1_mean"], lambda mean: f"{100 * mean:.1f}{spread}"),
        number_cell(row["top1_less_dense"], lambda less: f"{100 * less:+.1f}"),
        *(number_cell(row[f"{spent}_fraction"], percent) for spent in FRACTIONS),
        amount_cell(row["peak_memory_bytes"], "B"),
        number_cell(row["workload_variance"], lambda variance: f"{variance:.3f}"),
        *(amount_cell(row[name], "s") for name in SECONDS),
        number_cell(row["solver_share_of_step"], lambda share: f"{100 * share:.2f} %"),
    )


def markdown(summary: pd.DataFrame, curves: pd.DataFrame) -> str:
    """What methods cost and reach: after training, after every epoch, and at equal cost."""
    lines = [
        "# Summary",
        "",
        "Top-1 in percent, mean and standard deviation over seeds; against dense: points, of the",
        "same seeds. Compute and bytes are fractions of the dense run, scoring included; gradients",
        "are the values that have to be sent where copies of the model train, of the dense run's;",
        "memory is the fullest device's. Predicted seconds are the simulator's on the cluster,",
        "measured ones those of the training device, all subnets on it. Solver: its share of the",
        "measured training. The mean loss held out is of a sample, or of a token that a decoder",
        "foretells; perplexity is its exponential.",
    ]
    clusters = dict.fromkeys(summary["cluster"])
    for cluster, (_, rows) in zip(clusters, methods_table(summary).texts, strict=True):
        lines += ["", f"## {cluster}", "", *_lines(COLUMNS, rows)]
        of_cluster = curves[curves["cluster"] == cluster]
        for reached, name in REACHED.items():
            lines += [
                "",
                f"{name} after epochs:",
                "",
                *_lines_of(epochs_table(of_cluster, reached)),
            ]
            for column, what in EQUAL.items():
                lines += [
                    "",
                    f"{name} for what the first dense method has spent after its epochs, in {what}"
                    f" ({MORE}: the training had ended with less):",
                    "",
                    *_lines_of(equal_cost_table(of_cluster, column, reached)),
                ]
    return "\n".join(lines) + "\n"


def _lines_of(table: pd.DataFrame) -> list[str]:
    return _lines(tuple(table.columns), table.to_numpy().tolist())


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(columns) + " |",
        "|---|---|" + "---:|" * (len(columns) - 2),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


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


def load_results(out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves of a study's folder; ``measured_s`` of the curves includes scoring.

    Raises:
        InputError: a file is missing or damaged, or no run has an accuracy.
    """
    runs = load_table(out / RUNS, [*GROUP, "seed"])
    if "top1" not in runs:
        why = f": {runs['note'].iloc[0]}" if "note" in runs else ""
        raise InputError(f"{out / RUNS}: no run has an accuracy{why}")
    runs = load_table(out / RUNS, [*GROUP, "key", "seed", "top1", *SPENT, *SAVED])
    check_finite(out / RUNS, runs, ("seed",))
    check_finite(out / RUNS, runs[runs["top1"].notna()], ("top1", *SPENT, *SAVED))
    known = dict.fromkeys([*PLOTS, *EQUAL])
    del known["measured_s"]
    columns = [*GROUP, "key", "seed", "epoch", "top1", "measured_train_s", *known]
    curves = load_table(out / CURVES, columns)
    check_finite(out / CURVES, curves, [name for name in columns if name not in (*GROUP, "key")])
    scoring_s = runs.drop_duplicates("key").set_index("key")["measured_scoring_s"]
    curves["measured_s"] = curves["measured_train_s"] + scoring_s.reindex(curves["key"]).to_numpy()
    return runs, curves


def write_summary(out: Path) -> pd.DataFrame:
    """Write ``summary.csv``, ``summary.md`` and the plots of a study's folder; the table."""
    runs, curves = load_results(out)
    table = summary_table(runs)
    write_text(out / "summary.csv", table.to_csv(index=False))
    write_text(out / "summary.md", markdown(table, curves))
    called = file_names(runs["cluster"])
    for cluster, own in curves.groupby("cluster", sort=False):
        for column, name in PLOTS.items():
            save_both(accuracy_against(own, column), out, f"{name}_{called[str(cluster)]}")
    for cluster, own in table.groupby("cluster", sort=False):
        save_both(accuracy_ranked(own, ANY_BUDGET), out, f"accuracy_ranked_{called[str(cluster)]}")
    return table
