"""Solvers side by side: how good, how fast."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.console.formatting import quantity
from analysis.plots.style import BLACK, BLUE, GREY, ORANGE, new_figure, plot_style

_ROOM = 55.0
"""Length of a bar, in percent, that its label fits into."""


def solver_comparison(comparison: pd.DataFrame) -> Figure:
    """Objective as a share of the best proven bound (left), seconds to build and solve (right;
    none where nothing is built or solved).

    Args:
        comparison: one row per solver, columns
            `analysis.comparing.comparison.COLUMNS`.
    """
    bounds = comparison["upper_bound"].astype(float)
    best_bound = bounds.min()
    reference = comparison["objective"].max() if np.isnan(best_bound) else best_bound
    share = 100 * comparison["objective"] / reference
    position = np.arange(len(comparison))
    with plot_style():
        figure = new_figure(1.3 + 0.4 * len(comparison))
        left, right = figure.subplots(1, 2, sharey=True)
        left.barh(position, share, 0.6, color=BLUE)
        for y, value, status in zip(position, share, comparison["status"], strict=True):
            is_inside = value > _ROOM
            left.text(
                2 if is_inside else value + 2, y, f"{value:.2f} %, {status}", va="center",
                ha="left", color="white" if is_inside else BLACK, fontweight="bold",
            )  # fmt: skip
        left.set_xlim(0, max(104.0, 1.04 * share.max()))
        left.axvline(100, color=GREY, linestyle="--", linewidth=0.8)
        left.set_xlabel(
            "objective (% of the best objective)"
            if np.isnan(best_bound)
            else "objective (% of the lowest proven bound)"
        )
        left.set_yticks(position, comparison["solver"])
        left.tick_params(axis="y", length=0)
        left.set_ylim(len(comparison) - 0.5, -0.5)
        for column, colour, marker, label in (
            ("build_s", ORANGE, "D", "building the model"),
            ("solve_s", BLUE, "o", "solving"),
        ):
            takes = comparison[column].to_numpy() > 0
            right.scatter(
                comparison[column][takes], position[takes], color=colour, marker=marker,
                label=label if takes.any() else None, zorder=3,
            )  # fmt: skip
        for y, seconds in zip(position, comparison["solve_s"], strict=True):
            if seconds > 0:
                right.annotate(
                    quantity(seconds, "s"), (seconds, y), (0, 7), ha="center",
                    textcoords="offset points", fontsize=8,
                )  # fmt: skip
        right.set_xscale("log")
        right.margins(x=0.15)
        right.grid(axis="both", color=GREY, alpha=0.25, linewidth=0.6)
        right.set_xlabel("time (s, logarithmic)")
        right.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper right", ncols=2)
    return figure
