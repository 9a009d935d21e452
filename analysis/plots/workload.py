"""What each device does with its time, before and after planning."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.plots.style import (
    GREY,
    WORK_COLOURS,
    new_figure,
    plot_style,
    run_title,
    scaled_axis,
)
from analysis.plots.work_kinds import NETWORK, resources, work_kinds


def busy_seconds(timeline: pd.DataFrame) -> pd.DataFrame:
    """Seconds by device (rows) and kind of work (columns) of one step."""
    rows = timeline[timeline["resource"] != NETWORK]
    table = (rows["end_s"] - rows["start_s"]).groupby([rows["resource"], work_kinds(rows)]).sum()
    return table.unstack(fill_value=0)


def workload_per_device(timelines: Mapping[str, pd.DataFrame]) -> Figure:
    """Busy seconds of every device by kind of work, the rest of the step hatched as idle.

    Args:
        timelines: by run, the columns of `sim.prediction.Prediction.timeline`.
    """
    devices = [n for n in resources(list(timelines.values())) if n != NETWORK]
    kinds = [kind for kind in WORK_COLOURS if kind != "messages"]
    step_s = {run: float(table["end_s"].max()) for run, table in timelines.items()}
    height = 0.8 / len(timelines)
    with plot_style():
        figure = new_figure(1.2 + max(0.42, 0.2 * len(timelines)) * len(devices))
        axes = figure.add_subplot()
        factor = scaled_axis(axes, "x", max(step_s.values()), "time per step", "s")
        ticks: list[float] = []
        labels: list[str] = []
        for index, (run, timeline) in enumerate(timelines.items()):
            busy = busy_seconds(timeline).reindex(devices, columns=kinds, fill_value=0.0) * factor
            position = np.arange(len(devices)) - 0.4 + height * (index + 0.5)
            left = np.zeros(len(devices))
            for kind in kinds:
                axes.barh(position, busy[kind], 0.92 * height, left, color=WORK_COLOURS[kind])
                left += busy[kind].to_numpy()
            axes.barh(
                position,
                step_s[run] * factor - left,
                0.92 * height,
                left,
                facecolor="white",
                edgecolor=GREY,
                hatch="////",
                linewidth=0.5,
            )
            ticks.extend(position)
            labels.extend(f"{device}, {run_title(run)}" for device in devices)
        axes.set_yticks(ticks, labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(devices) - 0.5, -0.5)
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        figure.legend(
            handles=[
                *(Patch(facecolor=WORK_COLOURS[kind], label=kind) for kind in kinds),
                Patch(facecolor="white", edgecolor=GREY, hatch="////", label="idle"),
            ],
            loc="outside upper center",
            ncols=len(kinds) + 1,
        )
    return figure
