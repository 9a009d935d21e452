"""What a sweep found, for people and for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparing.compare_tables import table_rows
from analysis.console.output import percent, print_columns, print_line, seconds
from analysis.planning.way_words import WORTH
from analysis.sweeping.sweep_table import GIVEN, thinned
from d2ft_sched.files.counted import counted

MAX_SHOWN = 12
"""Plans of a front that are printed, the fastest and the best among them."""


def sweep_summary(table: pd.DataFrame, out: Path, written: Sequence[Path]) -> dict[str, Any]:
    """Plain values for JSON: how many points ended how, and the Pareto fronts in full."""
    return {
        "out": str(out),
        "files": [str(path) for path in written],
        "num_points": len(table),
        "statuses": {str(k): int(v) for k, v in table["status"].value_counts().items()},
        "pareto": table_rows(table[table["is_pareto"]]),
    }


def print_front(table: pd.DataFrame) -> None:
    """For every cluster and scale the plans that no other beats in step time and score."""
    for given, own in table.groupby(list(GIVEN), sort=False):
        cluster, bandwidth, compute, model, _ = given
        title = f"{model} on {cluster}"
        for factor, what in ((bandwidth, "bandwidth"), (compute, "compute")):
            if factor != 1:
                title += f", {what} x {factor:g}"
        front = own[own["is_pareto"]].sort_values("predicted_step_s")
        num_without = int(own["retained_score_fraction"].isna().sum())
        if front.empty:
            print_line(f"{title}: no point has a plan ({own['note'].iloc[0]})")
            continue
        print_line(front_verdict(front))
        print_columns(
            f"{title}: best of {counted(len(own), 'point')} ({num_without} without a plan), "
            f"predicted",
            ["step", "of best dense", "of fewer samples", "score kept", "FLOPs", "bytes", "memory",
             "budgets C/B/M", "solver", "micro-batches", "heads"],
            [
                [
                    seconds(row["predicted_step_s"]), _or_dash(row["step_fraction"]),
                    _or_dash(row["predicted_step_s"] / row["predicted_fewer_samples_step_s"]),
                    percent(row["retained_score_fraction"]), percent(row["compute_fraction"]),
                    _or_dash(row["communication_fraction"]), _or_dash(row["peak_memory_fraction"]),
                    f"{row['budget_compute_fraction']:g}/"
                    f"{row['budget_communication_fraction']:g}/{row['budget_memory_fraction']:g}",
                    str(row["solver"]), str(row["num_microbatches"]),
                    str(row["heads_per_subnet"]),
                ]
                for row in thinned(front, MAX_SHOWN).to_dict("records")
            ],
        )  # fmt: skip


def front_verdict(front: pd.DataFrame) -> str:
    """How many of some plans beat the best dense way and fewer samples of their compute, in one
    line."""
    dense_s = float(front["predicted_dense_step_s"].iloc[0])
    if np.isnan(dense_s):
        return "No dense way fits the memory of these devices"
    beaten = (front["predicted_step_s"] < (1 - WORTH) * dense_s) & (
        front["predicted_step_s"] < (1 - WORTH) * front["predicted_fewer_samples_step_s"]
    )
    best = f"the best dense way, {front['best_dense_way'].iloc[0]} ({seconds(dense_s)})"
    if not beaten.any():
        return f"No plan of the grid beats {best}, and fewer samples of its compute"
    return (
        f"{int(beaten.sum())} of the {counted(len(front), 'plan')} that no other beats are "
        f"faster than {best}, and than fewer samples of the same compute"
    )


def _or_dash(fraction: float) -> str:
    return "-" if np.isnan(fraction) else percent(fraction)
