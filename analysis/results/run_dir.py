"""The files of a run directory: how they are written, read and checked.

``plan.json`` (`d2ft_sched.plan.plan_file`), ``prediction.json``, ``measurement.json``,
``timeline_dense.csv``, ``timeline_plan.csv`` and ``provenance.json``;
`analysis.results.run_records` says what is in them.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from analysis.results.run_records import MeasurementFile, PredictionFile
from analysis.results.table_file import parse_csv
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import parse_json, validate
from d2ft_sched.files.text_file import read_text
from d2ft_sched.plan.plan_file import load_plan, save_plan
from d2ft_sched.plan.solved_plan import Plan

PLAN = "plan.json"
PREDICTION, MEASUREMENT = "prediction.json", "measurement.json"
PROVENANCE = "provenance.json"
TIMELINES = {"dense": "timeline_dense.csv", "plan": "timeline_plan.csv"}
TIMELINE_COLUMNS = (
    "wave",
    "direction",
    "block",
    "phase",
    "resource",
    "start_s",
    "end_s",
    "bytes",
)


@dataclass(frozen=True)
class Run:
    """Everything in a run directory.

    Attributes:
        plan: the plan that was simulated and executed.
        prediction: simulated steps.
        measurement: measured steps and trainings.
        timelines: of the simulated step on the plan's cluster, for the runs "dense" and "plan",
            columns `TIMELINE_COLUMNS`.
        provenance: versions, machine, seed and command.
    """

    plan: Plan
    prediction: PredictionFile
    measurement: MeasurementFile
    timelines: dict[str, pd.DataFrame]
    provenance: dict[str, str | int | float]


def save_run(run: Run, run_dir: Path) -> None:
    """Write every file, each atomically."""
    run_dir = Path(run_dir)
    save_plan(run.plan, run_dir / PLAN)
    write_text(run_dir / PREDICTION, run.prediction.model_dump_json(indent=1) + "\n")
    write_text(run_dir / MEASUREMENT, run.measurement.model_dump_json(indent=1) + "\n")
    for name, file in TIMELINES.items():
        write_text(run_dir / file, run.timelines[name].to_csv(index=False))
    write_text(run_dir / PROVENANCE, json.dumps(run.provenance, indent=1) + "\n")


def load_run(run_dir: Path) -> Run:
    """Read and check every file.

    Raises:
        InputError: a file is missing, damaged, newer than this d2ft, or of another plan; the line
            names the file and the field.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise InputError(f"{run_dir}: is not a run directory; make one with 'd2ft demo --out DIR'")
    run = Run(
        plan=load_plan(run_dir / PLAN),
        prediction=_load_versioned(run_dir / PREDICTION, PredictionFile),
        measurement=_load_versioned(run_dir / MEASUREMENT, MeasurementFile),
        timelines={name: _load_timeline(run_dir / file) for name, file in TIMELINES.items()},
        provenance=_load_provenance(run_dir / PROVENANCE),
    )
    _check_same_runs(run, run_dir)
    return run


def _check_same_runs(run: Run, run_dir: Path) -> None:
    names = [d.name for d in run.plan.cluster.devices]
    for run_name, prediction in run.prediction.cluster.items():
        found = [d.name for d in prediction.devices]
        if found != names:
            raise InputError(
                f"{run_dir / PREDICTION}: cluster.{run_name} has devices {', '.join(found)}; "
                f"{PLAN} has {', '.join(names)}"
            )
    for name in run.measurement.steps:
        if name not in run.prediction.this_device:
            raise InputError(
                f"{run_dir / PREDICTION}: this_device has no run {name!r}, which {MEASUREMENT} "
                f"measured"
            )


def _read(path: Path) -> str:
    if not os.path.lexists(path):
        raise InputError(
            f"{path}: is missing; a run directory as 'd2ft demo' writes it has this file"
        )
    try:
        return read_text(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file that must hold an object.

    Raises:
        InputError: it is missing, cannot be read, or holds something else.
    """
    try:
        content = parse_json(_read(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is damaged: not a JSON object")
    return content


_File = TypeVar("_File", PredictionFile, MeasurementFile)


def _load_versioned(path: Path, schema: type[_File]) -> _File:
    content = read_json_object(path)
    expected, version = (schema.model_fields[name].default for name in ("format", "version"))
    if content.get("format") != expected:
        raise InputError(f"{path}: format is {content.get('format')!r}; it must be {expected!r}")
    if content.get("version") != version:
        raise InputError(
            f"{path}: version is {content.get('version')!r}; this d2ft reads version {version}: "
            f"update d2ft, or make the run again with 'd2ft demo'"
        )
    try:
        return validate(schema, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _load_timeline(path: Path) -> pd.DataFrame:
    content = _read(path)
    try:
        table = parse_csv(content, ("direction", "phase", "resource"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if tuple(table.columns) != TIMELINE_COLUMNS:
        raise InputError(f"{path}: the first line must be {','.join(TIMELINE_COLUMNS)}")
    if table.empty:
        raise InputError(f"{path}: has no rows; a step has at least one phase")
    for column in ("wave", "block", "start_s", "end_s", "bytes"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        wrong = numbers.index[~numbers.map(math.isfinite)]
        if len(wrong):
            raise InputError(
                f"{path}: line {wrong[0] + 2}: {column} is {table[column][wrong[0]]!r}; "
                f"it must be a finite number"
            )
    backwards = table.index[table["end_s"] < table["start_s"]]
    if len(backwards):
        raise InputError(f"{path}: line {backwards[0] + 2}: end_s is before start_s")
    return table


def _load_provenance(path: Path) -> dict[str, str | int | float]:
    content = read_json_object(path)
    for name, value in content.items():
        if not isinstance(value, str | int | float):
            raise InputError(f"{path}: {name} is {value!r}; it must be a text or a number")
    return content
