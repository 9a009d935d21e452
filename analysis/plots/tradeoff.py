"""What plans spend against what they keep: trade-offs with their Pareto fronts."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.console.formatting import si_unit
from analysis.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SEQUENTIAL,
    VERMILION,
    new_figure,
    plot_style,
    scaled_axis,
)
from analysis.plots.sweep_titles import describe_given
from analysis.results.pareto import pareto_front

LEVELS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the score for which a front may be drawn; of those reached, the first, middle, last."""
_LEVEL_STYLES = ((VERMILION, "-"), (ORANGE, "--"), (GREEN, ":"))
_LABEL_HEIGHT = 0.075
"""Height of a label as a fraction of its axis."""


def compute_communication_tradeoff(table: pd.DataFrame) -> Figure:
    """FLOPs against bytes of every plan, with the least that keeping a share of the score takes
    (left), and score against step time, with the plans that no other beats in both (right).

    Where no plan exchanges anything, the left panel shows memory in place of bytes.

    Args:
        table: rows of `analysis.sweeping.sweep_table.sweep_table` that agree in its ``GIVEN``.
    """
    solved = table.dropna(subset=["retained_score_fraction"])
    with plot_style():
        figure = new_figure(4.4)
        figure.suptitle(f"{describe_given(table)} (predicted)", fontsize=9)
        left, right = figure.subplots(1, 2)
        _resources(figure, left, solved)
        _step_and_score(right, solved)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _resources(figure: Figure, axes: Axes, solved: pd.DataFrame) -> None:
    column, quantity = "exchange_bytes", "exchanged per step"
    if not solved[column].any():
        column, quantity = "predicted_peak_memory_bytes", "memory of the fullest device"
    score = 100 * solved["retained_score_fraction"]
    factor = scaled_axis(axes, "y", float(solved[column].max()), quantity, "B")
    compute, spent = 100 * solved["compute_fraction"], factor * solved[column]
    points = axes.scatter(
        compute, spent, c=score, cmap=SEQUENTIAL, vmin=0, vmax=100, s=16, edgecolor=GREY,
        linewidth=0.3, zorder=3,
    )  # fmt: skip
    figure.colorbar(points, ax=axes, label="score kept (% of dense)", location="top", aspect=30)
    for level, (colour, line) in zip(_levels(score / 100), _LEVEL_STYLES, strict=False):
        good = score >= 100 * level - 1e-9
        goals = np.column_stack([compute[good], spent[good]])
        front = goals[pareto_front(goals)]
        front = front[np.argsort(front[:, 0])]
        end_x, end_y = 1.03 * compute.max(), 1.03 * spent.max()
        axes.step(
            [front[0, 0], *front[:, 0], end_x], [end_y, *front[:, 1], front[-1, 1]],
            where="post", color=colour, linestyle=line, linewidth=1.4, zorder=2,
            label=f"least for {100 * level:.0f} % of the score",
        )  # fmt: skip
    axes.set_xlabel("compute (% of the dense FLOPs)")
    if column == "exchange_bytes":
        axes.set_ylim(bottom=-0.03 * spent.max())
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)


def _levels(score: pd.Series) -> Sequence[float]:
    reached = [x for x in LEVELS if (score >= x).sum() > 1 and (score < x).any()]
    if len(reached) <= len(_LEVEL_STYLES):
        return reached
    return reached[0], reached[len(reached) // 2], reached[-1]


def _step_and_score(axes: Axes, solved: pd.DataFrame) -> None:
    longest_s = float(solved[["predicted_step_s", "predicted_dense_step_s"]].max().max())
    factor, unit = si_unit(longest_s, "s")
    front = solved[solved["is_pareto"]].sort_values("predicted_step_s")
    dense_s = float(solved["predicted_dense_step_s"].fillna(longest_s).min()) / factor
    axes.scatter(
        solved["predicted_step_s"] / factor, 100 * solved["retained_score_fraction"],
        color=GREY, alpha=0.45, s=10, linewidth=0, label="plans",
    )  # fmt: skip
    steps, score = front["predicted_step_s"] / factor, 100 * front["retained_score_fraction"]
    axes.step(steps, score, where="post", color=BLUE, linewidth=1)
    axes.scatter(steps, score, color=BLUE, s=20, zorder=3, label="Pareto front")
    axes.scatter(dense_s, 100, color=BLACK, marker="*", s=70, zorder=4, label="best dense way")
    axes.set_xlabel(f"step time ({unit})")
    axes.set_ylabel("score kept (% of dense)")
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    drawn, least_y = [*(solved["predicted_step_s"] / factor), dense_s], float(score.min())
    least_x, most_x = min(drawn), max(drawn)
    axes.set_xlim(least_x - 0.5 * max(most_x - least_x, 0.1 * most_x), None)
    axes.set_ylim(least_y - 4, 100 + 0.12 * (104 - least_y))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= axes.get_xlim()[1]])
    last = -np.inf
    for x, y, row in zip(steps, score, front.to_dict("records"), strict=True):
        if y - last < _LABEL_HEIGHT * (108 - least_y) or y > 97:
            continue
        axes.annotate(
            _budgets(row), (x, y), (-4, 2), textcoords="offset points", ha="right", fontsize=7
        )
        last = y
    axes.set_title("labels: budgets of compute / bytes / memory in %", fontsize=8)


def _budgets(row: dict[Hashable, Any]) -> str:
    return " / ".join(
        f"{100 * row[f'budget_{name}_fraction']:.0f}"
        for name in ("compute", "communication", "memory")
    )
