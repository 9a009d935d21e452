"""A study: every method at every budget on every cluster for every seed, one row per run."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.study_file import BudgetSchema, MethodSchema, StudySchema, settings_of
from analysis.study_methods import Recipe, StepCosts, build_recipe
from d2ft_sched.atomic_write import write_text
from d2ft_sched.cluster import Cluster
from d2ft_sched.cluster_file import cluster_to_dict, load_cluster
from d2ft_sched.errors import InputError
from d2ft_sched.partition import partition_by_heads
from d2ft_sched.provenance import provenance
from d2ft_sched.workload import Workload
from runtime.data.load import load_data
from runtime.device import device_name, select_device
from runtime.models import build_model, shape_of
from runtime.peers.training import Start, common_start, train_peer
from runtime.training import Evaluated, FineTuneSettings, Stepped

RUNS, CURVES, PROVENANCE = "runs.csv", "curves.csv", "provenance.json"
ANY_BUDGET = "dense"
"""Budget of methods that spend what the dense run spends."""


@dataclass(frozen=True)
class Run:
    """One cell of the grid."""

    cluster: Cluster
    budget: BudgetSchema
    budget_name: str
    method: MethodSchema
    seed: int
    key: str


def planned_runs(study: StudySchema, folder: Path) -> list[Run]:
    """All runs, all of the first seed first.

    Args:
        study: what to do.
        folder: that its cluster files are named from.
    """
    clusters = [load_cluster(folder / name) for name in study.clusters]
    runs = []
    for seed in study.seeds:
        for cluster in clusters:
            for method in study.methods:
                is_dense = method.kind in ("dense", "data_parallel")
                for budget in study.budgets[:1] if is_dense else study.budgets:
                    facts = settings_of(study, method) | {
                        "cluster": cluster_to_dict(cluster),
                        "budget": None if is_dense else budget.model_dump(),
                        "seed": seed,
                    }
                    name = ANY_BUDGET if is_dense else budget.name
                    runs.append(Run(cluster, budget, name, method, seed, _digest(facts)))
    return runs


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


_TEXT = {"key": str, "training": str, "note": str}
"""Columns that must not be read as numbers."""


class Table:
    """Rows of a CSV file; every change writes the whole file anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        try:
            if path.exists():
                records = pd.read_csv(path, dtype=_TEXT).to_dict("records")
                self.rows = [{str(k): v for k, v in record.items()} for record in records]
        except (pd.errors.ParserError, pd.errors.EmptyDataError):
            raise InputError(f"{path}: is damaged: not a CSV table; move it away") from None

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.rows += rows
        write_text(self.path, pd.DataFrame(self.rows).to_csv(index=False))


def run_study(
    study: StudySchema,
    folder: Path,
    out: Path,
    *,
    data: str | None = None,
    data_root: Path | None = None,
    download: bool = False,
    device: str = "auto",
    only: list[str] | None = None,
    max_runs: int | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Iterator[dict[str, Any]]:
    """Do what is not yet in `out`; every row is on disk when it is yielded.

    A method that cannot meet a budget gets a row without accuracy. Runs that train the same (dense
    under other placements) are trained once.

    Args:
        study: what to do.
        folder: that its cluster files are named from.
        out: where ``runs.csv``, ``curves.csv`` and ``provenance.json`` are.
        data: data set in place of the study's, with the same pictures.
        data_root, download, device: as for ``d2ft finetune``.
        only: names of methods; default all.
        max_runs: runs after which to stop.
        tell: told steps done, steps in all, and the run.
    """
    for name in only or []:
        if name not in [m.name for m in study.methods]:
            known = ", ".join(m.name for m in study.methods)
            raise InputError(f"--only is {name!r}; the study has the methods {known}")
    runs, curves = Table(out / RUNS), Table(out / CURVES)
    done = {row["key"] for row in runs.rows}
    curves.rows = [row for row in curves.rows if row["key"] in done]
    pending = [
        run
        for run in planned_runs(study, folder)
        if run.key not in done and (not only or run.method.name in only)
    ][:max_runs]
    where = select_device(device)
    facts = provenance(study.seeds[0], device=device_name(where), study=study.name)
    write_text(out / PROVENANCE, json.dumps(facts, indent=1) + "\n")
    start: Start | None = None
    steps_of_run = study.training.num_epochs * (
        study.data.num_train
        // (study.minibatch.num_microbatches * study.minibatch.microbatch_samples)
    )
    for index, run in enumerate(pending):
        label = f"{run.method.name}, {run.cluster.name}, seed {run.seed}"

        def told(steps: int, index: int = index, label: str = label) -> None:
            tell(index * steps_of_run + steps, len(pending) * steps_of_run, label)

        told(0)
        if start is None or start.seed != run.seed:
            start = _start(study, run.seed, data, data_root, download, device)
        row, curve = _do(study, run, start, runs.rows, curves.rows, told)
        row["device"], row["created_utc"] = device_name(where), facts["created_utc"]
        row["d2ft_version"], row["torch_version"] = facts["d2ft_version"], facts["torch_version"]
        if curve:
            curves.add(curve)
        runs.add([row])
        yield row


def _start(
    study: StudySchema,
    seed: int,
    data: str | None,
    data_root: Path | None,
    download: bool,
    device: str,
) -> Start:
    pictures = load_data(
        data or study.data.name,
        image_size=study.data.image_size,
        num_train=study.data.num_train,
        num_test=study.data.num_test,
        seed=seed,
        data_root=data_root,
        download=download,
    )
    if pictures.num_classes != study.data.num_classes:
        raise InputError(
            f"data.num_classes is {study.data.num_classes}; {study.data.name} has "
            f"{pictures.num_classes}"
        )
    model = build_model(
        study.model.name,
        image_size=study.data.image_size,
        num_classes=pictures.num_classes,
        weights=study.model.weights,
        pretrained=study.model.pretrained,
        seed=seed,
    )
    shape = shape_of(model)
    batch = study.minibatch
    workload = Workload(
        shape,
        partition_by_heads(shape, batch.heads_per_subnet),
        (batch.microbatch_samples,) * batch.num_microbatches,
    )
    return common_start(
        model,
        pictures,
        workload,
        seed,
        select_device(device),
        linear_probe=study.training.linear_probe,
    )


def _do(
    study: StudySchema,
    run: Run,
    start: Start,
    known_rows: list[dict[str, Any]],
    known_curves: list[dict[str, Any]],
    told: Callable[[int], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head = {
        "key": run.key,
        "cluster": run.cluster.name,
        "budget": run.budget_name,
        "method": run.method.name,
        "seed": run.seed,
    }
    try:
        recipe = build_recipe(run.method, run.budget, run.cluster, start, study.training.num_epochs)
    except InputError as error:
        return head | {"note": str(error)}, []
    settings = FineTuneSettings(
        num_epochs=recipe.num_epochs, lr=study.training.learning_rate, seed=run.seed
    )
    training = _digest(
        [
            study.model_dump(include={"data", "model", "minibatch", "training"}),
            run.seed,
            recipe.leave_out,
            hashlib.sha256(recipe.schedules.tobytes()).hexdigest(),
        ]
    )
    measured = _known_training(training, known_rows, known_curves)
    note = "" if measured is None else "trained once for several rows"
    if measured is None:
        measured = _train(start, recipe, settings, told)
    return _rows(head | {"training": training, "note": note}, recipe, start, measured, study)


Measured = list[tuple[int, int, float, float, float]]
"""Epoch, steps behind, top-1, test loss and measured seconds of training, at every evaluation."""


def _train(
    start: Start, recipe: Recipe, settings: FineTuneSettings, told: Callable[[int], None]
) -> Measured:
    measured: Measured = []
    steps, seconds = 0, 0.0
    for event in train_peer(start, recipe.schedules, settings, leave_out=recipe.leave_out):
        if isinstance(event, Stepped):
            steps, seconds = event.step, seconds + event.step_s
            told(steps)
        elif isinstance(event, Evaluated):
            measured.append((event.epoch, steps, event.top1, event.loss, seconds))
    return measured


def _known_training(
    training: str, rows: list[dict[str, Any]], curves: list[dict[str, Any]]
) -> Measured | None:
    key = next((row["key"] for row in rows if row.get("training") == training), None)
    if key is None:
        return None
    return [
        (c["epoch"], c["num_steps"], c["top1"], c["test_loss"], c["measured_train_s"])
        for c in curves
        if c["key"] == key
    ]


def _rows(
    head: dict[str, Any], recipe: Recipe, start: Start, measured: Measured, study: StudySchema
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    costs = StepCosts(recipe, start.workload)
    predictions = [costs.of(schedule) for schedule in recipe.schedules]
    dense = costs.dense()
    dense_steps = study.training.num_epochs * start.num_minibatches
    scoring_flops = recipe.scored.flops if recipe.scored else 0.0
    scoring_s = scoring_flops / dense.flops * dense.step_s
    step_s = np.array([p.step_s for p in predictions])
    flops = np.array([p.flops for p in predictions])
    exchanged = np.array([p.exchange_bytes for p in predictions])
    scoring_bytes = scoring_flops / dense.flops * dense.exchange_bytes
    busy_s = np.mean([p.device_busy_s for p in predictions], axis=0)
    dense_flops = dense.flops * dense_steps
    curve = []
    for epoch, steps, top1, loss, seconds in measured:
        spent = {
            "compute_fraction": (flops[:steps].sum() + scoring_flops) / dense_flops,
            "simulated_s": step_s[:steps].sum() + scoring_s,
            "measured_train_s": seconds,
        }
        facts = {"epoch": epoch, "num_steps": steps, "top1": top1, "test_loss": loss}
        curve.append({k: head[k] for k in ("key", "cluster", "budget", "method", "seed")})
        curve[-1] |= facts | spent
    dense_bytes = dense.exchange_bytes * dense_steps
    last = curve[-1]
    row = head | {
        "num_steps": last["num_steps"],
        "top1": last["top1"],
        "compute_fraction": last["compute_fraction"],
        "scoring_compute_fraction": scoring_flops / dense_flops,
        "communication_fraction": (exchanged.sum() + scoring_bytes) / dense_bytes
        if dense_bytes
        else 0.0,
        "simulated_step_s": step_s.mean(),
        "simulated_step_max_s": step_s.max(),
        "simulated_scoring_s": scoring_s,
        "simulated_total_s": last["simulated_s"],
        "workload_cv": float(busy_s.std() / busy_s.mean()),
        "measured_train_s": last["measured_train_s"],
        "measured_scoring_s": recipe.scored.seconds if recipe.scored else 0.0,
        "solver_s_per_step": recipe.solve_s / len(step_s),
        "solver_share_of_step": recipe.solve_s / last["measured_train_s"],
    }
    return row, curve
