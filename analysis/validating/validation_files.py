"""What ``d2ft validate`` prints and writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.console.cells import Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import percent
from analysis.console.output import finite, print_cells, print_table, seconds
from analysis.plots.save import save_both
from analysis.plots.validation import validation_scatter
from analysis.validating.plans_tried import QUANTITIES, Agreement, agreement
from analysis.validating.validated import Validated
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import provenance
from d2ft_sched.schedule.placement import Placement

TITLES = {
    "step_s": ("Step time", "s"),
    "peak_memory_bytes": ("Peak memory", "B"),
    "bytes": ("Bytes sent", "B"),
    "flops": ("FLOPs", "FLOP"),
}
"""Names and units of `QUANTITIES`."""


def validation_summary(validated: Validated, seed: int) -> dict[str, Any]:
    """Plain values for JSON: agreement per quantity, rows, phases and provenance."""
    table = validated.table
    return {
        "device": validated.device,
        "cluster": validated.cluster.name,
        "agreement": {quantity: vars(agreed) for quantity, agreed in _agreed(table).items()},
        "plans": table.to_dict(orient="records"),
        "phases": validated.phases.to_dict(orient="records"),
        "baselines": validated.baselines.to_dict(orient="records"),
        **_placed(validated.placement),
        "provenance": provenance(seed, device=validated.device),
    }


def _agreed(table: pd.DataFrame) -> dict[str, Agreement]:
    return {q: agreement(table, q) for q in QUANTITIES if table[f"measured_{q}"].any()}


def _placed(placement: Placement | None) -> dict[str, Any]:
    if placement is None:
        return {}
    return {"subnet_device": list(placement.subnet_device), "owner": list(placement.owner)}


def save_validation(validated: Validated, folder: Path, seed: int) -> list[Path]:
    """Write validation.json, three tables and the scatter plot; their paths."""
    summary = finite(validation_summary(validated, seed))
    texts = {
        "validation.json": json.dumps(summary, indent=1) + "\n",
        "plans.csv": validated.table.to_csv(index=False),
        "phases.csv": validated.phases.to_csv(index=False),
    }
    if len(validated.baselines):
        texts["baselines.csv"] = validated.baselines.to_csv(index=False)
    for name, text in texts.items():
        write_text(folder / name, text)
    pictures = save_both(validation_scatter(validated.table), folder, "predicted_measured")
    return [*(folder / name for name in texts), *pictures]


def print_validation(validated: Validated) -> None:
    """Tables for people."""
    table, phases = validated.table, validated.phases
    _print_steps(f"Predicted beside measured: {validated.device}", "plan", table)
    if len(validated.baselines):
        _print_steps("Dense steps to hold savings against", "step", validated.baselines)
    whole = phases.groupby("phase", sort=False)[["predicted_s", "measured_s"]].sum()
    all_s = table["measured_step_s"].sum()
    print_table(
        "Phases, mean over devices and plans",
        ["phase", "predicted", "measured", "error, of the step"],
        [
            [
                str(phase),
                seconds(both["predicted_s"] / len(table)),
                seconds(both["measured_s"] / len(table)),
                percent((both["predicted_s"] - both["measured_s"]) / all_s),
            ]
            for phase, both in whole.iterrows()
        ],
    )
    print_cells(agreement_table(table, _agreed(table)))


def agreement_table(table: pd.DataFrame, agreed: Mapping[str, Agreement]) -> Table:
    """How well each quantity of a `validation_table` was predicted."""
    rows = tuple(
        (
            text_cell(title),
            amount_cell(table[f"measured_{quantity}"].max(), unit),
            number_cell(agreed[quantity].mean, lambda v: percent(v, 2)),
            number_cell(agreed[quantity].largest, lambda v: percent(v, 2)),
            text_cell(agreed[quantity].worst_plan),
            number_cell(agreed[quantity].kendall_tau, lambda v: f"{v:.3f}"),
        )
        for quantity, (title, unit) in TITLES.items()
        if quantity in agreed
    )
    return Table(
        "How well each quantity was predicted over all plans",
        ("quantity", "largest measured", "mean error", "largest error", "of plan", "Kendall's tau"),
        (("", rows),),
    )


def _print_steps(title: str, name: str, table: pd.DataFrame) -> None:
    print_table(
        title,
        [name, "seconds, predicted", "measured", "error", "FLOPs", "bytes", "memory"],
        [
            [
                row["plan"],
                seconds(row["predicted_step_s"]),
                seconds(row["measured_step_s"]),
                percent(row["error_step_s"]),
                *(percent(row[f"error_{q}"]) for q in ("flops", "bytes", "peak_memory_bytes")),
            ]
            for row in table.to_dict(orient="records")
        ],
    )
