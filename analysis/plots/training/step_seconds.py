"""Step times of trainings, with what changed them."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.console.formatting import quantity
from analysis.plots.style import (
    BLUE,
    GREY,
    PALE,
    VERMILION,
    new_figure,
    plot_style,
    run_title,
    scaled_axis,
)


def step_times(
    steps: pd.DataFrame,
    title: str,
    *,
    slower: tuple[int, int] | None = None,
    medians: bool = False,
    colours: Sequence[str] = (GREY, VERMILION, BLUE),
) -> Figure:
    """A line for every run over its steps but the first, which sets much up; re-plannings as marks.

    Args:
        steps: columns run, step, step_s, replanned (text, empty where it was not).
        title: of the picture.
        slower: steps between which a rank was slower.
        medians: draw and name the median of each run, too.
        colours: of the runs, in the order of their first rows.
    """
    is_one = steps["step"].max() == 1
    steps = steps if is_one else steps[steps["step"] > 1]
    with plot_style():
        figure = new_figure(3.4)
        axes = figure.subplots()
        factor = scaled_axis(axes, "y", steps["step_s"].max(), "step time, measured", "s")
        if slower is not None:
            axes.axvspan(slower[0] + 0.5, slower[1] + 0.5, color=PALE, label="one rank slower")
        for colour, (name, run) in zip(colours, steps.groupby("run", sort=False), strict=False):
            median_s = float(run["step_s"].median())
            label = run_title(str(name))
            if medians:
                label += f", median {quantity(median_s, 's')}"
            axes.plot(
                run["step"], factor * run["step_s"], color=colour, label=label, linewidth=1.2,
                marker="." if len(run) < 3 else None,
            )  # fmt: skip
            if medians:
                axes.axhline(factor * median_s, color=colour, linestyle="--", linewidth=1)
            marked = run[run["replanned"] != ""]
            axes.plot(
                marked["step"], factor * marked["step_s"], color=colour, marker="o",
                markersize=4, linestyle="none",
            )  # fmt: skip
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        replanned = (steps["replanned"] != "").any()
        axes.set_xlabel("step (dots: re-planned after it)" if replanned else "step (number)")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=4)
    return figure
