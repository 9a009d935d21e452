"""Predictions beside measurements."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.console.formatting import si_unit
from analysis.plots.style import GREY, PALE, new_figure, plot_style, run_styles, run_title
from analysis.results.savings import Pair

_BAND = 0.1
_COLUMNS = 5
"""Entries of a legend beside each other."""


def predicted_against_measured(panels: Sequence[tuple[str, str, dict[str, Pair]]]) -> Figure:
    """One panel per quantity with the ideal line and a band of 10 % around it.

    Args:
        panels: quantity, unit, and predicted beside measured value of every run.
    """
    names = list(dict.fromkeys(name for _, _, pairs in panels for name in pairs))
    styles = run_styles(names)
    with plot_style():
        figure = new_figure(3.4)
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
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(len(handles), _COLUMNS)
        )
    return figure


def validation_scatter(table: pd.DataFrame) -> Figure:
    """Step time and memory of every plan of `analysis.validating.plans_tried.validation_table`,
    and bytes where there are any; logarithmic axes, the ideal line and a band of 10 % around it."""
    panels = [("step_s", "Step time", "s"), ("peak_memory_bytes", "Peak memory", "B")]
    if table["measured_bytes"].any():
        panels.append(("bytes", "Bytes sent", "B"))
    kinds = table["plan"].map(_kind)
    styles = run_styles(dict.fromkeys(kinds))
    with plot_style():
        figure = new_figure(3.4)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (quantity, title, unit) in zip(grid, panels, strict=True):
            measured = table[f"measured_{quantity}"]
            predicted = table[f"predicted_{quantity}"]
            there = (measured > 0) & (predicted > 0)
            values = np.concatenate([measured[there], predicted[there]])
            factor, prefixed = si_unit(float(values.max()), unit)
            line = np.array([0.8 * values.min(), 1.25 * values.max()]) / factor
            axes.fill_between(line, (1 - _BAND) * line, (1 + _BAND) * line, color=PALE)
            axes.plot(line, line, color=GREY, linestyle="--", linewidth=0.8)
            for kind, (colour, marker, _) in styles.items():
                of_kind = there & (kinds == kind)
                axes.scatter(
                    measured[of_kind] / factor, predicted[of_kind] / factor,
                    color=colour, marker=marker, zorder=3,
                )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlim=line, ylim=line, aspect="equal")
            for axis in (axes.xaxis, axes.yaxis):
                is_narrow = line[1] < 10 * line[0]
                axis.set_major_locator(MaxNLocator(3) if is_narrow else LogLocator(subs=(1, 3)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
            axes.set_title(title)
            axes.set_xlabel(f"measured ({prefixed})")
            axes.set_ylabel(f"predicted ({prefixed})")
        handles = [
            grid[0].scatter([], [], color=colour, marker=marker, label=kind)
            for kind, (colour, marker, _) in styles.items()
        ]
        handles.append(grid[0].fill_between([], [], color=PALE, label="within 10 %"))
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(len(handles), _COLUMNS)
        )
    return figure


def _kind(plan: str) -> str:
    return "one operation" if plan.startswith("all ") else plan.partition(",")[0]
