"""The pictures of a sweep, beside its table."""

from functools import partial
from pathlib import Path

import pandas as pd

from analysis.plots.save import Drawing, save_both
from analysis.plots.step_budget import step_time_against_budget
from analysis.plots.tradeoff import compute_communication_tradeoff
from analysis.results.file_names import file_names
from analysis.sweeping.sweep_table import CHOSEN, GIVEN

_KINDS = {
    "tradeoff": (
        compute_communication_tradeoff,
        GIVEN,
        "What plans spend against the share of the score that they keep, with the plans that no "
        "other beats",
    ),
    "step_time": (
        step_time_against_budget,
        CHOSEN,
        "Predicted step time of plans against their budget, a line for every bandwidth",
    ),
}


def sweep_drawings(table: pd.DataFrame) -> dict[str, Drawing]:
    """A trade-off and step times for every cluster that has plans, by the names of their files.

    Of scales, and for step times of solvers and cuts, the value nearest to 1 or the first is drawn;
    ``d2ft plot`` draws the others.
    """
    drawings: dict[str, Drawing] = {}
    called = file_names(table["cluster"])
    for cluster, own in table.groupby("cluster", sort=False):
        name = called[str(cluster)]
        for kind, (draw, agree_in, what) in _KINDS.items():
            rows = one_of(own, agree_in)
            if rows["retained_score_fraction"].notna().any():
                drawings[f"{kind}_{name}"] = (partial(draw, rows), f"{what} on {cluster}.")
    return drawings


def save_sweep_plots(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write `sweep_drawings`; the paths."""
    written: list[Path] = []
    for name, (draw, _) in sweep_drawings(table).items():
        written += save_both(draw(), folder, name)
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
