"""What ``d2ft validate`` prints and writes."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.console.output import amount, finite, percent, print_table, seconds
from analysis.plots.save import save_both
from analysis.plots.validation import validation_scatter
from analysis.validating.plans_tried import QUANTITIES, agreement
from analysis.validating.validated import Validated
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import provenance
from d2ft_sched.schedule.placement import Placement

_TITLES = {"flops": "FLOPs", "bytes": "bytes", "peak_memory_bytes": "memory", "step_s": "step"}
_UNITS = {"flops": "FLOP", "bytes": "B", "peak_memory_bytes": "B", "step_s": "s"}


def validation_summary(validated: Validated, seed: int) -> dict[str, Any]:
    """Plain values for JSON: agreement per quantity, rows, phases and provenance."""
    table = validated.table
    return {
        "device": validated.device,
        "cluster": validated.cluster.name,
        "agreement": {
            quantity: vars(agreement(table, quantity))
            for quantity in QUANTITIES
            if table[f"measured_{quantity}"].any()
        },
        "plans": table.to_dict(orient="records"),
        "phases": validated.phases.to_dict(orient="records"),
        "baselines": validated.baselines.to_dict(orient="records"),
        **_placed(validated.placement),
        "provenance": provenance(seed, device=validated.device),
    }


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
    shown = [q for q in QUANTITIES if table[f"measured_{q}"].any()]
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
    agreed = {quantity: agreement(table, quantity) for quantity in shown}
    print_table(
        "Agreement over all plans",
        ["quantity", "largest measured", "mean error", "largest error", "of plan", "Kendall tau"],
        [
            [
                _TITLES[quantity],
                amount(table[f"measured_{quantity}"].max(), _UNITS[quantity]),
                percent(one.mean),
                percent(one.largest),
                one.worst_plan,
                f"{one.kendall_tau:.3f}",
            ]
            for quantity, one in agreed.items()
        ],
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
