"""Gantt charts of a simulated step: devices and network over time."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.console.formatting import quantity
from analysis.plots.style import (
    BLACK,
    GREY,
    PALE,
    WORK_COLOURS,
    new_figure,
    plot_style,
    run_title,
    scaled_axis,
)
from analysis.plots.work_kinds import NETWORK, resources, work_kinds

_FINEST = 1 / 4000
"""Gaps below this fraction of the time axis cannot be seen: such neighbours are merged."""
_MOST_TALL_ROWS = 16
_HAIR = 1 / 5000
"""Bars below this fraction of the time axis are drawn as wide as this, so as not to vanish."""


def step_gantt(timelines: Mapping[str, pd.DataFrame]) -> Figure:
    """The whole step of each run, one panel above the other on the same time axis.

    Args:
        timelines: by run, the columns of `sim.prediction.Prediction.timeline`.
    """
    panels = [[(run_title(run), _with_kinds(table))] for run, table in timelines.items()]
    return _gantt(panels, "time since the start of the step")


def block_gantt(timelines: Mapping[str, pd.DataFrame], block: int) -> Figure:
    """One block of the first wave of each run, forward on the left, backward on the right; without
    the sums of its gradients, which may wait for those of other blocks."""
    panels = [
        [
            (f"{run_title(run)}, {direction}", _of_block(table, block, direction))
            for direction in ("forward", "backward")
        ]
        for run, table in timelines.items()
    ]
    return _gantt(panels, f"time since the start of block {block}")


def _gantt(panels: Sequence[Sequence[tuple[str, pd.DataFrame]]], label: str) -> Figure:
    tables = [table for row in panels for _, table in row]
    names = resources(tables)
    end_s = max(_end_s(table) for table in tables)
    row_in = 0.24 if len(names) <= _MOST_TALL_ROWS else 0.12
    with plot_style():
        figure = new_figure(0.9 + len(panels) * (0.45 + row_in * len(names)))
        grid = figure.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
        for axes, (title, table) in zip(grid.flat, (p for row in panels for p in row), strict=True):
            factor = scaled_axis(axes, "x", end_s, label, "s")
            axes.set_title(f"{title}: {quantity(_end_s(table), 's')}")
            _draw(axes, table, names, end_s, factor)
            axes.label_outer()
        kinds = [k for k in WORK_COLOURS if any((t["kind"] == k).any() for t in tables)]
        figure.legend(
            handles=[
                *(Patch(facecolor=WORK_COLOURS[kind], label=kind) for kind in kinds),
                Patch(facecolor=PALE, label="idle"),
            ],
            loc="outside lower center",
            ncols=len(kinds) + 1,
            columnspacing=1.2,
        )
    return figure


def _end_s(table: pd.DataFrame) -> float:
    return float(table["end_s"].max()) if len(table) else 0.0


def _draw(
    axes: Axes,
    table: pd.DataFrame,
    names: Sequence[str],
    end_s: float,
    factor: float,
) -> None:
    last_s = _end_s(table)
    for position, name in enumerate(names):
        if name != NETWORK:
            axes.broken_barh([(0, last_s * factor)], (position - 0.4, 0.8), facecolor=PALE)
        rows = table[table["resource"] == name]
        for kind, colour in WORK_COLOURS.items():
            bars = _merged(rows[rows["kind"] == kind], end_s * _FINEST) * factor
            if len(bars):
                axes.broken_barh(
                    [(start, max(end - start, end_s * _HAIR * factor)) for start, end in bars],
                    (position - 0.4, 0.8),
                    facecolor=colour,
                    linewidth=0,
                    snap=False,
                )
    axes.axvline(last_s * factor, color=BLACK, linewidth=0.8, linestyle="--")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, end_s * factor * 1.01)
    axes.set_yticks(range(len(names)), names, fontsize=9 if len(names) <= _MOST_TALL_ROWS else 6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)


def _with_kinds(timeline: pd.DataFrame) -> pd.DataFrame:
    return timeline.assign(kind=work_kinds(timeline))


def _of_block(timeline: pd.DataFrame, block: int, direction: str) -> pd.DataFrame:
    table = _with_kinds(timeline)
    rows = table[
        (table["wave"] == table["wave"].min())
        & (table["block"] == block)
        & (table["direction"] == direction)
        & (table["phase"] != "gradient sum")
    ]
    start_s = rows["start_s"].min()
    return rows.assign(start_s=rows["start_s"] - start_s, end_s=rows["end_s"] - start_s)


def _merged(rows: pd.DataFrame, finest_s: float) -> np.ndarray:
    """Start and end of bars, float ``[num_bars, 2]``, where neighbours closer than `finest_s` are
    one."""
    bars = rows[["start_s", "end_s"]].sort_values("start_s").to_numpy(dtype=float)
    if not len(bars):
        return bars
    apart = np.r_[True, bars[1:, 0] - bars[:-1, 1] > finest_s]
    first = np.flatnonzero(apart)
    return np.stack([bars[first, 0], bars[np.r_[first[1:], len(bars)] - 1, 1]], axis=1)
