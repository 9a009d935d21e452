"""Step time against the budget, for each bandwidth: where messages bound it and where computing."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.console.formatting import quantity
from analysis.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    new_figure,
    plot_style,
    scaled_axis,
)
from analysis.plots.sweep_titles import describe_choice, describe_given

BUDGETS = {
    "budget_compute_fraction": "compute budget (% of the dense FLOPs)",
    "budget_communication_fraction": "communication budget (% of the dense bytes)",
    "budget_memory_fraction": "memory budget (% of dense activations)",
}
_COLOURS = (VERMILION, ORANGE, GREEN, SKY_BLUE, BLUE, PURPLE, BLACK, GREY)
_MARKERS = "osD^vPh8"
_MUCH = 10
"""Ratio of the longest to the shortest step above which the axis is logarithmic."""


def step_time_against_budget(table: pd.DataFrame) -> Figure:
    """A panel for each budget that varies, the others at their largest; a line per bandwidth.

    Filled where devices wait for messages during more than half of the step, hollow where they
    compute, small where one device does everything and no message is sent.

    Args:
        table: rows of `analysis.sweeping.sweep_table.sweep_table` that differ in budgets and
            ``bandwidth_scale`` only.
    """
    solved = table.dropna(subset=["predicted_step_s"])
    varying = [name for name in BUDGETS if solved[name].nunique() > 1] or [next(iter(BUDGETS))]
    with plot_style():
        figure = new_figure(4.2, max(4.0 * len(varying), 5.5))
        given = describe_given(table.assign(bandwidth_scale=1.0))
        figure.suptitle(f"{given}; {describe_choice(table)} (predicted)", fontsize=9)
        panels = figure.subplots(1, len(varying), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, varying, strict=True):
            others = [other for other in BUDGETS if other != name]
            at_most = solved[(solved[others] == solved[others].max()).all(axis=1)]
            _lines(axes, at_most, name, axes is panels[0])
            axes.set_xlabel(BUDGETS[name])
            axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        for label, fill, size in (
            ("mostly messages", GREY, 24), ("mostly computing", "white", 24),
            ("no messages", GREY, 5),
        ):  # fmt: skip
            panels[0].scatter([], [], color=fill, edgecolor=GREY, s=size, label=label)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, column: str, with_labels: bool) -> None:
    factor = scaled_axis(axes, "y", float(rows["predicted_step_s"].max()), "step time", "s")
    if not with_labels:
        axes.set_ylabel("")
    if rows["predicted_step_s"].max() > _MUCH * rows["predicted_step_s"].min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, 1.06 * factor * rows["predicted_step_s"].max())
    for index, (scale, own) in enumerate(rows.groupby("bandwidth_scale")):
        own = own.sort_values(column)
        colour = _COLOURS[index % len(_COLOURS)]
        x, y = 100 * own[column], factor * own["predicted_step_s"]
        label = None
        if with_labels:
            narrowest = own["narrowest_link_bytes_per_s"].iloc[0]
            label = f"bandwidth x {scale:g}"
            if not np.isnan(narrowest):
                label += f", narrowest link {quantity(narrowest, 'B/s')}"
        axes.plot(x, y, color=colour, linewidth=1.2, label=label)
        waits = own["predicted_exchange_wait_s"] > 0.5 * own["predicted_step_s"]
        silent = own["exchange_bytes"] == 0
        axes.scatter(
            x, y, color=[colour if w or s else "white" for w, s in zip(waits, silent, strict=True)],
            edgecolor=colour, marker=_MARKERS[index % len(_MARKERS)],
            s=np.where(silent, 5, 26), zorder=3,
        )  # fmt: skip
