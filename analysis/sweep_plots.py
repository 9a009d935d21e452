"""The pictures of a sweep, beside its table."""

import re
from pathlib import Path

import pandas as pd

from analysis.plots.save import save_both
from analysis.plots.step_budget import step_time_against_budget
from analysis.plots.tradeoff import compute_communication_tradeoff
from analysis.sweep_table import CHOSEN, GIVEN


def save_sweep_plots(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a trade-off and step times for every cluster that has plans; the paths.

    Of scales, and for step times of solvers and cuts, the value nearest to 1 or the first is drawn;
    ``d2ft plot`` draws the others.
    """
    written: list[Path] = []
    for cluster, own in table.groupby("cluster", sort=False):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(cluster))
        figures = {
            "tradeoff": (compute_communication_tradeoff, one_of(own, GIVEN)),
            "step_time": (step_time_against_budget, one_of(own, CHOSEN)),
        }
        for kind, (draw, rows) in figures.items():
            if rows["retained_score_fraction"].notna().any():
                written += save_both(draw(rows), folder, f"{kind}_{name}")
    return written


def one_of(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The rows of one value of each column: of scales the one nearest to 1, else the first."""
    for column in columns:
        values = table[column]
        value = values.iloc[0]
        if column.endswith("_scale"):
            value = values.iloc[int((values - 1).abs().argmin())]
        table = table[values == value]
    return table
