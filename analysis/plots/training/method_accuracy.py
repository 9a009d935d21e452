"""Accuracy of a study's methods, against what they spent and against one another."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.console.formatting import percent
from analysis.plots.style import BLACK, GREY, legend_label, new_figure, plot_style, run_styles

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
                capsize=2, linewidth=1.2, label=legend_label(label),
            )  # fmt: skip
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel(LABELS[column])
        axes.set_ylabel("test accuracy, top-1 (%)")
        figure.legend(loc="outside upper center", ncols=num_columns, fontsize=7)
    return figure


def accuracy_ranked(summary: pd.DataFrame, any_budget: str) -> Figure:
    """Top-1 after training, best method first: mean and standard deviation over seeds.

    Beside each stands its training compute, scoring included; a line marks the first dense method.

    Args:
        summary: of one cluster, as `analysis.studying.study_summary.summary_table` gives it.
        any_budget: name of the budget of dense methods.
    """
    ranked = summary.sort_values("top1_mean", kind="stable")
    dense = summary[summary["budget"] == any_budget]
    styles = run_styles(dict.fromkeys(summary["budget"]))
    at = np.arange(len(ranked))
    with plot_style():
        figure = new_figure(1.0 + 0.2 * len(ranked))
        axes = figure.subplots()
        if len(dense):
            axes.axvline(100 * dense["top1_mean"].iloc[0], color=BLACK, linestyle=":", linewidth=1)
        for budget, (colour, marker, _) in styles.items():
            own = ranked["budget"].to_numpy() == budget
            top1, spread = 100 * ranked["top1_mean"][own], 100 * ranked["top1_std"][own].fillna(0)
            axes.errorbar(
                top1, at[own], xerr=spread, color=colour, marker=marker, linestyle="none",
                markersize=5, capsize=2, label=legend_label(budget),
            )  # fmt: skip
        axes.set_yticks(at, ranked["method"])
        axes.set_ylim(-0.7, len(ranked) - 0.3)
        right = axes.twinx()
        right.set_yticks(at, [percent(fraction) for fraction in ranked["compute_fraction"]])
        right.set_ylim(axes.get_ylim())
        right.tick_params(length=0)
        right.set_ylabel("training compute, of the dense run")
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel("test accuracy after training, top-1 (%)")
        figure.legend(loc="outside upper center", ncols=min(len(styles), 4), fontsize=8)
    return figure
