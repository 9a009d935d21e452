"""Solvers over the number of devices: time, distance to the best bound, workload balance."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots.save import save_both
from analysis.plots.style import GREY, new_figure, plot_style, run_styles

SHOWN_ZERO = 1e-8
"""Where a distance of 0 is drawn on a logarithmic axis."""
_PANELS = (
    ("seconds", "build and solve (s)"),
    ("below_best_bound", "below the best bound (fraction)"),
    ("workload_cv", "CV of devices' busy time (fraction)"),
)


def solver_scaling(table: pd.DataFrame, tightness: float) -> Figure:
    """One line per solver at one tightness; hollow where it ended without proof.

    Args:
        table: from `analysis.comparing.scaling.scaling_table`.
        tightness: which rows.
    """
    rows = table[table["tightness"] == tightness]
    rows = rows.assign(
        seconds=rows["build_s"] + rows["solve_s"],
        below_best_bound=rows["below_best_bound"].clip(lower=SHOWN_ZERO),
    )
    styles = run_styles(map(str, rows["solver"].unique()))
    with plot_style():
        figure = new_figure(3.4, 10.0)
        panels = figure.subplots(1, len(_PANELS))
        for axes, (column, label) in zip(panels, _PANELS, strict=True):
            for solver, own in rows.groupby("solver", sort=False):
                own = own.dropna(subset=[column]).sort_values("num_devices")
                colour, marker, line = styles[str(solver)]
                axes.plot(
                    own["num_devices"], own[column], color=colour, linewidth=1, linestyle=line
                )
                fill = [colour if status == "OPTIMAL" else "white" for status in own["status"]]
                axes.scatter(
                    own["num_devices"], own[column], color=fill, edgecolor=colour, marker=marker,
                    s=24, zorder=3,
                )  # fmt: skip
                if axes is panels[0]:
                    axes.scatter([], [], color=colour, marker=marker, s=24, label=str(solver))
            axes.set_xscale("log")
            axes.set_xlabel("devices (number)")
            axes.set_ylabel(label)
            axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        panels[0].set_yscale("log")
        panels[1].set_yscale("log")
        panels[1].set_title(f"0 is drawn at {SHOWN_ZERO:g}", fontsize=8)
        panels[2].set_ylim(0, 1.1 * rows["workload_cv"].max())
        panels[0].set_title(f"tightness {tightness:g}; hollow: no proof", fontsize=8)
        figure.legend(loc="outside upper center", ncols=9)
    return figure


def save_scaling_plots(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write ``solvers_TIGHTNESS`` as PNG and SVG for each tightness of a table; the paths."""
    written: list[Path] = []
    for tightness in table["tightness"].unique().tolist():
        written += save_both(solver_scaling(table, tightness), folder, f"solvers_{tightness:g}")
    return written
