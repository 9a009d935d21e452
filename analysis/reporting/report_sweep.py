"""The report's part on a sweep: which plans of a grid are worth having."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.console.cells import Cell, Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import less_or_more, percent, quantity, saved
from analysis.plots.sweep_titles import describe_given
from analysis.reporting.headline import Answer
from analysis.reporting.report_part import SAVING, Part
from analysis.reporting.report_tables import provenance_table
from analysis.results.run_dir import PROVENANCE, read_json_object
from analysis.sweeping.run_sweep import FORMATS, JOURNAL
from analysis.sweeping.sweep_plots import one_of, sweep_drawings
from analysis.sweeping.sweep_table import GIVEN, load_table, thinned
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted

TABLES = tuple(f"sweep.{kind}" for kind in FORMATS)
KEPT = (0.9, 0.75, 0.5)
"""Shares of the score for which the quickest plan is told."""
GOOD = 0.75
"""Of them, the one that answers first."""
MAX_ROWS = 40
"""Of a front in the table."""


def sweep_part(folder: Path) -> Part | None:
    """The part on a folder that 'd2ft sweep' wrote; None for another folder.

    Raises:
        InputError: its table is damaged, or was not written yet.
    """
    found = [path for name in TABLES if (path := folder / name).exists()]
    if not found:
        if (folder / JOURNAL).exists():
            raise InputError(
                f"{folder / JOURNAL}: is of a sweep that was stopped before it wrote its table; "
                f"the same 'd2ft sweep' command goes on"
            )
        return None
    path = max(found, key=lambda file: file.stat().st_mtime)
    table = load_table(path)
    provenance = read_json_object(folder / PROVENANCE)
    clusters = ", ".join(dict.fromkeys(table["cluster"].astype(str)))
    models = ", ".join(dict.fromkeys(table["model"].astype(str)))
    drawings = sweep_drawings(table)
    title = f"sweep of {models} on {clusters}"
    answer = _saving(table)
    return Part(
        "sweep",
        title,
        f"Which of {counted(len(table), 'plan')} of {models} on {clusters} are worth having?",
        (answer,) if answer else (),
        provenance_table(title, provenance),
        {
            "num_points": len(table),
            "axes": _axes(table),
            "front": _front_table(table),
            "ends": _end_table(table),
            "tradeoffs": [name for name in drawings if name.startswith("tradeoff")],
            "step_times": [name for name in drawings if name.startswith("step_time")],
            "file": path.name,
        },
        drawings,
    )


def _saving(table: pd.DataFrame) -> Answer | None:
    """Of the quickest plan that keeps `GOOD` of the score, or else the quickest of all, of the
    first cluster that has plans, where scales are nearest to 1."""
    solved = table[table["retained_score_fraction"].notna()]
    if solved.empty:
        return None
    own = one_of(solved, GIVEN).sort_values("predicted_step_s")
    dense_s = float(own["predicted_dense_step_s"].min())
    if np.isnan(dense_s):
        return None

    def told(row: pd.Series) -> str:
        return less_or_more(1 - float(row["predicted_step_s"]) / dense_s)

    quickest, facts = own.iloc[0], []
    for share in KEPT:
        good = own[own["retained_score_fraction"] >= share - 1e-9]
        if len(good) and share == GOOD:
            quickest = good.iloc[0]
        elif len(good):
            facts.append(
                f"Keeping {percent(share, 0)} of the score or more: {told(good.iloc[0])} "
                f"({_choice(good.iloc[0])})."
            )
    facts.append(
        f"The quickest of all keeps {percent(float(own.iloc[0]['retained_score_fraction']))}: "
        f"{told(own.iloc[0])}."
    )
    fewer_s = float(quickest["predicted_fewer_samples_step_s"])
    facts.append(
        f"Fewer samples of the same compute, in their own best way "
        f"({quickest['fewer_samples_way']}): {quantity(fewer_s, 's')}."
    )
    facts.append("The score kept is what plans are chosen by; it is no accuracy.")
    return Answer(
        SAVING,
        saved(1 - float(quickest["predicted_step_s"]) / dense_s, "step time"),
        f"predicted, {describe_given(own)}: {quantity(dense_s, 's')} the best dense way "
        f"({own['best_dense_way'].iloc[0]}), "
        f"{quantity(float(quickest['predicted_step_s']), 's')} by the quickest plan that keeps "
        f"{percent(min(GOOD, float(quickest['retained_score_fraction'])))} of the score or more "
        f"({_choice(quickest)})",
        tuple(facts),
    )


def _choice(row: pd.Series) -> str:
    return f"{row['solver']}, budgets {_budgets(row)}"


def _budgets(row: pd.Series) -> str:
    return " / ".join(
        f"{100 * row[f'budget_{name}_fraction']:.0f}"
        for name in ("compute", "communication", "memory")
    )


def _axes(table: pd.DataFrame) -> list[str]:
    """What varies, with its values."""
    titles = {
        "budget_compute_fraction": "compute budget",
        "budget_communication_fraction": "communication budget",
        "budget_memory_fraction": "memory budget",
        "solver": "solver",
        "num_microbatches": "micro-batches",
        "heads_per_subnet": "heads per subnet",
        "bandwidth_scale": "bandwidth, times",
        "compute_scale": "speed of devices, times",
    }
    lines = []
    for column, title in titles.items():
        values = list(dict.fromkeys(table[column]))
        if len(values) > 1:
            shown = [v if isinstance(v, str) else f"{v:g}" for v in values]
            lines.append(f"{title} {', '.join(shown)}")
    return lines


def _front_table(table: pd.DataFrame) -> Table | None:
    groups = []
    for _, own in table.groupby(list(GIVEN), sort=False):
        front = own[own["is_pareto"]].sort_values("predicted_step_s")
        if len(front):
            rows = tuple(_front_row(row) for _, row in thinned(front, MAX_ROWS).iterrows())
            groups.append((describe_given(own), rows))
    if not groups:
        return None
    return Table(
        "Plans that no other beats in both step time and score, predicted; budgets are of "
        "compute / bytes / memory",
        (
            "Budgets C / B / M (%)",
            "Solver",
            "Micro-batches",
            "Heads per subnet",
            "Step",
            "Step, of the best dense way",
            "Step, of fewer samples",
            "Score kept",
            "Gap to the bound",
            "FLOPs, of dense",
            "Bytes, of dense",
            "Peak memory, of the best dense way",
            "Messages alone, of the step",
        ),
        tuple(groups),
    )


def _front_row(row: pd.Series) -> tuple[Cell, ...]:
    return (
        text_cell(_budgets(row)),
        text_cell(str(row["solver"])),
        number_cell(row["num_microbatches"], lambda v: f"{v:.0f}"),
        text_cell(str(row["heads_per_subnet"])),
        amount_cell(row["predicted_step_s"], "s"),
        number_cell(row["step_fraction"], percent),
        number_cell(row["predicted_step_s"] / row["predicted_fewer_samples_step_s"], percent),
        number_cell(row["retained_score_fraction"], percent),
        number_cell(row["gap_fraction"], lambda v: percent(v, 3)),
        number_cell(row["compute_fraction"], percent),
        number_cell(row["communication_fraction"], percent),
        number_cell(row["peak_memory_fraction"], percent),
        number_cell(row["predicted_exchange_wait_s"] / row["predicted_step_s"], percent),
    )


def _end_table(table: pd.DataFrame) -> Table | None:
    """Points without a plan by their reason; None where every point has one."""
    without = table[table["retained_score_fraction"].isna()]
    if without.empty:
        return None
    names = ["cluster", "solver", "status", "note"]
    ends = without.groupby(names, sort=False).size().reset_index(name="points")
    rows = tuple(
        (*(text_cell(str(row[name])) for name in names), number_cell(row["points"], str))
        for row in ends.to_dict("records")
    )
    return Table(
        "Points without a plan", ("Cluster", "Solver", "Status", "Why", "Points"), (("", rows),)
    )
