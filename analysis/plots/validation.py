"""Predictions beside measurements."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.formatting import si_unit
from analysis.plots.style import GREY, PALE, new_figure, plot_style, run_styles, run_title
from analysis.savings import Pair

_BAND = 0.1


def predicted_against_measured(panels: Sequence[tuple[str, str, dict[str, Pair]]]) -> Figure:
    """One panel per quantity with the ideal line and a band of 10 % around it.

    Args:
        panels: quantity, unit, and predicted beside measured value of every run.
    """
    names = list(dict.fromkeys(name for _, _, pairs in panels for name in pairs))
    styles = run_styles(names)
    with plot_style():
        figure = new_figure(3.2)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, unit, pairs) in zip(grid, panels, strict=True):
            points = {
                name: (pair.measured, pair.predicted)
                for name, pair in pairs.items()
                if pair.measured is not None
            }
            largest = max(max(point) for point in points.values())
            factor, prefixed = si_unit(largest, unit)
            line = np.array([0.0, 1.15 * largest / factor])
            axes.fill_between(line, (1 - _BAND) * line, (1 + _BAND) * line, color=PALE)
            axes.plot(line, line, color=GREY, linestyle="--", linewidth=0.8)
            for name, (measured, predicted) in points.items():
                axes.scatter(
                    measured / factor, predicted / factor,
                    color=styles[name][0], marker=styles[name][1], zorder=3,
                )  # fmt: skip
            axes.set_xlim(line)
            axes.set_ylim(line)
            axes.set_aspect("equal")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_title(title)
            axes.set_xlabel(f"measured ({prefixed})")
            axes.set_ylabel(f"predicted ({prefixed})")
        handles = [
            grid[0].scatter([], [], color=styles[n][0], marker=styles[n][1], label=run_title(n))
            for n in names
        ]
        handles.append(grid[0].fill_between([], [], color=PALE, label="within 10 %"))
        handles.extend(
            grid[0].plot([], [], color=GREY, linestyle="--", linewidth=0.8, label="exact")
        )
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure
