"""The report's part on a validation: predictions of many plans beside their measurement."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from analysis.console.cells import Cell, Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import (
    less_or_more,
    percent,
    quantity,
    signed_percent,
    signed_points,
)
from analysis.plots.validation import validation_scatter
from analysis.reporting.headline import Answer
from analysis.reporting.report_part import CERTAINTY, SAVING, Part
from analysis.reporting.report_tables import provenance_table
from analysis.results.run_dir import read_json_object
from analysis.validating.plans_tried import QUANTITIES, Agreement
from analysis.validating.validation_files import TITLES, agreement_table
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.schema import validate

VALIDATION = "validation.json"
DENSE = "dense"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class PhaseRecord(_Record):
    plan: str
    phase: str
    predicted_s: float
    measured_s: float
    error_of_step: float | None


class ValidationFile(_Record):
    """``validation.json`` as `analysis.validating.validation_files` writes it."""

    device: str
    cluster: str
    agreement: dict[str, Agreement]
    plans: list[dict[str, Any]] = Field(min_length=1)
    baselines: list[dict[str, Any]] = Field(default_factory=list)
    phases: list[PhaseRecord]
    provenance: dict[str, str | int | float]


def validation_part(folder: Path) -> Part | None:
    """The part on a folder that 'd2ft validate' wrote; None for another folder.

    Raises:
        InputError: its file is damaged.
    """
    path = folder / VALIDATION
    if not path.exists():
        return None
    file, table, baselines = _load(path)
    title = f"predictions for {file.cluster}, held against {file.device}"
    return Part(
        "validation",
        title,
        f"How well are steps of {counted(len(table), 'plan')} predicted on {file.device}?",
        tuple(a for a in (_saving(file, table, baselines), _certainty(file, table)) if a),
        provenance_table(title, file.provenance),
        {
            "device": file.device,
            "agreement": agreement_table(table, file.agreement),
            "plans": _plan_table(table, baselines),
            "phases": _phase_table(file),
        },
        {
            "validation": (
                lambda: validation_scatter(table),
                f"Predicted against measured step time and peak memory of "
                f"{counted(len(table), 'plan')} on "
                f"{file.device}, with the line of exact prediction and a band of 10 %.",
            )
        },
    )


def _load(path: Path) -> tuple[ValidationFile, pd.DataFrame, pd.DataFrame]:
    try:
        file = validate(ValidationFile, read_json_object(path), strict=False, extra="ignore")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return file, _table(path, "plans", file.plans), _table(path, "baselines", file.baselines)


def _table(path: Path, name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["plan", *(f"{side}_{q}" for q in QUANTITIES for side in ("predicted", "measured"))]
    table = pd.DataFrame(rows, columns=None if rows else columns)
    for column in columns:
        if column not in table or table[column].isna().any():
            raise InputError(f"{path}: {name}: one has no {column}")
        if column != "plan" and rows and not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(f"{path}: {name}: {column} is not a number in every one")
    return table


def _saving(file: ValidationFile, table: pd.DataFrame, baselines: pd.DataFrame) -> Answer | None:
    """Of the quickest plan that still trains something everywhere, measured."""
    rows = {str(row["plan"]): row for row in table.to_dict("records")}
    dense = rows.get(DENSE)
    others = [row for name, row in rows.items() if not name.startswith(("all ", DENSE))]
    if dense is None or not others:
        return None
    dense_s = float(dense["measured_step_s"])
    quickest = min(others, key=lambda row: float(row["measured_step_s"]))
    saved = [
        1 - float(quickest[f"{side}_step_s"]) / float(dense[f"{side}_step_s"])
        for side in ("measured", "predicted")
    ]
    return Answer(
        SAVING,
        f"up to {less_or_more(saved[0])} step time",
        f"measured on {file.device}: dense {quantity(dense_s, 's')}, plan “{quickest['plan']}” "
        f"{quantity(float(quickest['measured_step_s']), 's')}",
        (
            f"Predicted for that plan: {less_or_more(saved[1])}.",
            *(
                f"Dense as {row['plan']}, measured: {quantity(float(row['measured_step_s']), 's')}."
                for row in baselines.to_dict("records")
            ),
        ),
    )


def _certainty(file: ValidationFile, table: pd.DataFrame) -> Answer | None:
    step = file.agreement.get("step_s")
    if step is None or step.mean is None or step.largest is None:
        return None
    facts = [f"Furthest off: “{step.worst_plan}”, by {percent(step.largest)}."]
    if step.kendall_tau is not None:
        facts.append(
            f"Order of the plans by step time, predicted against measured: Kendall's tau "
            f"{step.kendall_tau:.2f}."
        )
    exact = [
        f"{TITLES[name][0]} by at most {percent(other.largest, 2)}"
        for name, other in file.agreement.items()
        if name in TITLES and name != "step_s" and other.largest is not None
    ]
    if exact:
        facts.append(f"Off by: {', '.join(exact)}.")
    return Answer(
        CERTAINTY,
        f"off by {percent(step.mean)} on average",
        f"in step time, at most {percent(step.largest)}, over {counted(len(table), 'plan')} run on "
        f"{file.device}",
        tuple(facts),
    )


def _plan_table(plans: pd.DataFrame, baselines: pd.DataFrame) -> Table:
    shown = [name for name in TITLES if plans[f"measured_{name}"].any()]
    columns = ["Plan"]
    for name in shown:
        title = TITLES[name][0]
        columns += [f"{title}, predicted", f"{title}, measured", f"{title}, error"]
    groups = [("Plans", tuple(_plan_row(row, shown) for row in plans.to_dict("records")))]
    if len(baselines):
        rows = tuple(_plan_row(row, shown) for row in baselines.to_dict("records"))
        groups.append(("Dense steps to hold savings against", rows))
    return Table("Every plan, predicted beside measured", tuple(columns), tuple(groups))


def _plan_row(row: Mapping[Any, Any], shown: Sequence[str]) -> tuple[Cell, ...]:
    cells = [text_cell(str(row["plan"]))]
    for name in shown:
        predicted, measured = float(row[f"predicted_{name}"]), float(row[f"measured_{name}"])
        unit = TITLES[name][1]
        cells += [amount_cell(predicted, unit), amount_cell(measured, unit)]
        error = predicted / measured - 1 if measured else None
        cells.append(number_cell(error, signed_percent))
    return tuple(cells)


def _phase_table(file: ValidationFile) -> Table:
    rows = tuple(
        (
            text_cell(row.plan),
            text_cell(row.phase),
            amount_cell(row.predicted_s, "s"),
            amount_cell(row.measured_s, "s"),
            number_cell(row.error_of_step, signed_points),
        )
        for row in file.phases
    )
    return Table(
        "Where predictions are wrong: phases of a step, mean over devices",
        ("Plan", "Phase", "Predicted", "Measured", "Error (points of the step)"),
        (("", rows),),
    )
