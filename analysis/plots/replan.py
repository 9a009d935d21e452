"""Step times of trainings that one rank slows down."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots.style import (
    BLUE,
    GREY,
    PALE,
    VERMILION,
    new_figure,
    plot_style,
    scaled_axis,
)

_COLOURS = (GREY, VERMILION, BLUE)


def step_times(steps: pd.DataFrame, from_step: int, until_step: int, title: str) -> Figure:
    """A line for every run over its steps, re-plannings as marks.

    Args:
        steps: columns run, seed, step, step_s, replanned; lines are of the first seed.
        from_step, until_step: between which a rank was slower.
        title: of the picture.
    """
    steps = steps[(steps["seed"] == steps["seed"].iloc[0]) & (steps["step"] > 1)]
    with plot_style():
        figure = new_figure(3.4)
        axes = figure.subplots()
        factor = scaled_axis(axes, "y", steps["step_s"].max(), "step time, measured", "s")
        axes.axvspan(from_step + 0.5, until_step + 0.5, color=PALE, label="one rank slower")
        for colour, (name, run) in zip(_COLOURS, steps.groupby("run", sort=False), strict=False):
            axes.plot(run["step"], factor * run["step_s"], color=colour, label=name, linewidth=1.2)
            marked = run[run["replanned"] != ""]
            axes.plot(
                marked["step"], factor * marked["step_s"], color=colour, marker="o",
                markersize=4, linestyle="none",
            )  # fmt: skip
        axes.set_ylim(0, None)
        axes.set_xlabel("step (dots: re-planned after it)")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=4)
    return figure
