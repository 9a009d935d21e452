"""Accuracy of a study's methods against what they spent."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.plots.style import GREY, new_figure, plot_style, run_styles

LABELS = {
    "compute_fraction": "training compute, scoring included (fraction of the dense run)",
    "measured_s": "measured seconds on the training device, scoring included (s)",
    "simulated_s": "simulated seconds on the cluster, scoring included (s)",
}

WIDEST_OF_THREE = 48
"""Letters of the longest name with which three columns of a legend fit the picture."""


def accuracy_against(curves: pd.DataFrame, column: str) -> Figure:
    """Mean top-1 over seeds at every evaluation, with the range from lowest to highest seed.

    Args:
        curves: of one cluster, as ``curves.csv`` has them.
        column: a key of `LABELS`.
    """
    names = list(dict.fromkeys(zip(curves["budget"], curves["method"], strict=True)))
    styles = run_styles([f"{method} ({budget})" for budget, method in names])
    num_columns = 3 if max(map(len, styles)) <= WIDEST_OF_THREE else 2
    with plot_style():
        figure = new_figure(4.0 + 0.17 * math.ceil(len(styles) / num_columns))
        axes = figure.subplots()
        for (budget, method), (label, style) in zip(names, styles.items(), strict=True):
            own = curves[(curves["budget"] == budget) & (curves["method"] == method)]
            by_epoch = own.groupby("epoch")
            x, top1 = by_epoch[column].mean(), 100 * by_epoch["top1"].mean()
            spread = np.abs(
                np.stack([100 * by_epoch["top1"].min(), 100 * by_epoch["top1"].max()]) - top1.values
            )
            colour, marker, line = style
            axes.errorbar(
                x, top1, spread, color=colour, marker=marker, linestyle=line, markersize=4,
                capsize=2, linewidth=1.2, label=label,
            )  # fmt: skip
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel(LABELS[column])
        axes.set_ylabel("test accuracy, top-1 (%)")
        figure.legend(loc="outside upper center", ncols=num_columns, fontsize=7)
    return figure
