"""What each device does with its time, before and after planning."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.plots.style import (
    GREY,
    PALE,
    WORK_COLOURS,
    new_figure,
    plot_style,
    run_title,
    scaled_axis,
)
from analysis.plots.work_kinds import NETWORK, resources, work_kinds

KINDS = tuple(kind for kind in WORK_COLOURS if kind != "messages")


def busy_seconds(timeline: pd.DataFrame) -> pd.DataFrame:
    """Seconds by device (rows) and kind of work (columns) of one step."""
    rows = timeline[timeline["resource"] != NETWORK]
    table = (rows["end_s"] - rows["start_s"]).groupby([rows["resource"], work_kinds(rows)]).sum()
    return table.unstack(fill_value=0)


def network_seconds(timeline: pd.DataFrame) -> float:
    """Seconds of a step in which messages move and every device waits for them."""
    is_network = (timeline["resource"] == NETWORK).to_numpy()
    start_s, end_s = (timeline[name].to_numpy(dtype=float) for name in ("start_s", "end_s"))
    moments = np.unique([start_s, end_s])
    under_way = np.zeros((2, len(moments)), dtype=int)
    for kind, chosen in zip(under_way, (is_network, ~is_network), strict=True):
        np.add.at(kind, np.searchsorted(moments, start_s[chosen]), 1)
        np.add.at(kind, np.searchsorted(moments, end_s[chosen]), -1)
    moving, computing = under_way.cumsum(axis=1)[:, :-1] > 0
    return float(np.diff(moments)[moving & ~computing].sum())


def workload_per_device(timelines: Mapping[str, pd.DataFrame]) -> Figure:
    """Busy seconds of every device by kind of work (left), and within the whole step (right).

    Waiting is hatched: for slower devices, or for messages.

    Args:
        timelines: by run, the columns of `sim.prediction.Prediction.timeline`.
    """
    devices = [n for n in resources(list(timelines.values())) if n != NETWORK]
    busy = {
        run: busy_seconds(timeline).reindex(devices, columns=KINDS, fill_value=0.0)
        for run, timeline in timelines.items()
    }
    step_s = {run: float(table["end_s"].max()) for run, table in timelines.items()}
    with plot_style():
        figure = new_figure(1.5 + max(0.42, 0.2 * len(timelines)) * len(devices))
        left, right = figure.subplots(1, 2, sharey=True)
        largest_s = max(float(table.sum(axis=1).max()) for table in busy.values())
        busy_factor = scaled_axis(left, "x", largest_s, "busy time per step", "s")
        step_factor = scaled_axis(right, "x", max(step_s.values()), "time per step", "s")
        height = 0.8 / len(timelines)
        ticks: list[float] = []
        labels: list[str] = []
        for index, (run, timeline) in enumerate(timelines.items()):
            position = np.arange(len(devices)) - 0.4 + height * (index + 0.5)
            ticks.extend(position)
            labels.extend(f"{device}, {run_title(run)}" for device in devices)
            for axes, factor in ((left, busy_factor), (right, step_factor)):
                end = _stack(axes, position, 0.92 * height, busy[run] * factor)
            messages = network_seconds(timeline) * step_factor
            waiting = step_s[run] * step_factor - end - messages
            _hatched(right, position, 0.92 * height, waiting, end, "////")
            _hatched(right, position, 0.92 * height, messages, end + waiting, "....")
        left.set_yticks(ticks, labels)
        left.set_ylim(len(devices) - 0.5, -0.5)
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        figure.legend(
            handles=[
                *(Patch(facecolor=WORK_COLOURS[kind], label=kind) for kind in KINDS),
                Patch(facecolor="white", edgecolor=GREY, hatch="////", label="waits for devices"),
                Patch(facecolor=PALE, edgecolor=GREY, hatch="....", label="waits for messages"),
            ],
            loc="outside upper center",
            ncols=3,
        )
    return figure


def _stack(axes: Axes, position: np.ndarray, height: float, busy: pd.DataFrame) -> np.ndarray:
    """Draw the kinds of work one after another; returns where they end."""
    end = np.zeros(len(busy))
    for kind in KINDS:
        axes.barh(position, busy[kind], height, end, color=WORK_COLOURS[kind])
        end += busy[kind].to_numpy()
    return end


def _hatched(
    axes: Axes,
    position: np.ndarray,
    height: float,
    width: np.ndarray | float,
    left: np.ndarray,
    hatch: str,
) -> None:
    axes.barh(
        position, width, height, left, hatch=hatch, edgecolor=GREY, linewidth=0.5,
        facecolor="white" if hatch == "////" else PALE,
    )  # fmt: skip
