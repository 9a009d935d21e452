"""One run of a study: its training and its row."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.studying.study_claims import claim
from analysis.studying.study_costs import StepCosts, described, gradient_values
from analysis.studying.study_file import StudySchema, training_settings
from analysis.studying.study_grid import Run, digest
from analysis.studying.study_methods import build_recipe
from analysis.studying.study_recipe import Recipe, adapters_of
from analysis.studying.study_start import Pictures, start_of
from analysis.studying.study_table import CURVES, RUNS, Table
from d2ft_sched.errors import InputError
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.lora import Lora
from d2ft_sched.schedule.operations import Operation
from runtime.measure.step_memory import check_whole_step
from runtime.peers.training import (
    Start,
    train_peer,
    with_adapters,
    with_larger_minibatches,
)
from runtime.ranks.job import Ranks
from runtime.scoring.training_scores import scoring_flops
from runtime.torch_device import device_name, float32_products, select_device
from runtime.training.events import Evaluated, Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.schedule_memo import ScheduleMemo


class Worker:
    """Does runs of one study, one after another."""

    def __init__(
        self,
        study: StudySchema,
        out: Path,
        order: dict[str, int],
        pictures: Pictures,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._study, self._out, self._pictures, self._note = study, out, pictures, note
        self._runs, self._curves = Table(out / RUNS, order), Table(out / CURVES, order)
        self._start: Start | None = None

    @property
    def done(self) -> set[str]:
        """Keys of the runs that are on disk, as far as this process knows."""
        return {row["key"] for row in self._runs.rows}

    def attempt(
        self, run: Run, told: Callable[[int], None], *, wait: bool
    ) -> dict[str, Any] | None:
        """Do one run; None if it is done, or being done by another process.

        Args:
            run: what to do.
            told: told the steps done.
            wait: for another process that does this run, or the same training.
        """
        with claim(self._out, run.key, wait=wait) as is_mine:
            self._read()
            if not is_mine or run.key in self.done:
                return None
            with float32_products(self._study.training.float32_products):
                return self._do(run, told, wait=wait)

    def _read(self) -> None:
        self._runs.read()
        self._curves.read()

    def _do(self, run: Run, told: Callable[[int], None], *, wait: bool) -> dict[str, Any] | None:
        head = {
            "key": run.key,
            "cluster": run.cluster.name,
            "budget": run.budget_name,
            "method": run.method.name,
            "seed": run.seed,
        }
        training = self._study.training
        start = everything = self.prepare(run.seed)
        try:
            if run.method.accumulate > 1:
                start = with_larger_minibatches(start, run.method.accumulate)
            lora = adapters_of(run.method, run.budget, start.workload, run.cluster)
            if lora is not None:
                start = with_adapters(start, lora)
            recipe = build_recipe(run.method, run.budget, run.cluster, start, training.num_epochs)
            for schedule in recipe.schedules[:1]:
                check_whole_step(start.workload, schedule, Ranks(0, 1, start.device))
        except InputError as error:
            return self._put(head | {"note": str(error)}, [])
        name = self._training_name(run, recipe, lora)
        with claim(self._out, name, wait=wait) as is_mine:
            if not is_mine:
                return None
            self._read()
            measured = known_training(name, self._runs.rows, self._curves.rows)
            note = "" if measured is None else "trained once for several rows"
            if measured is None:
                measured = train(start, recipe, run.seed, training.learning_rate, told)
            head |= {"training": name, "note": note}
            return self._put(*rows(head, recipe, start, everything, measured, training.num_epochs))

    def _training_name(self, run: Run, recipe: Recipe, lora: Lora | None) -> str:
        """The same for runs that train the same."""
        if recipe.policy is not None:
            return digest(["decided step by step", run.key])
        return digest(
            [
                training_settings(self._study),
                run.seed,
                recipe.leave_out,
                recipe.rescale,
                recipe.lr_factor,
                hashlib.sha256(recipe.schedules.tobytes()).hexdigest(),
                *([] if lora is None else [asdict(lora)]),
                *([recipe.num_frozen_blocks] if recipe.num_frozen_blocks else []),
                *([run.method.accumulate] if run.method.accumulate > 1 else []),
            ]
        )

    def _put(self, row: dict[str, Any], curve: list[dict[str, Any]]) -> dict[str, Any]:
        facts = provenance(row["seed"])
        row["device"] = device_name(select_device(self._pictures.device))
        for name in ("created_utc", "d2ft_version", "torch_version"):
            row[name] = facts[name]
        self._curves.put(row["key"], curve)
        self._runs.put(row["key"], [row])
        return row

    def prepare(self, seed: int) -> Start:
        """The start of a seed, which is kept until another is asked for.

        Raises:
            InputError: pictures or model that cannot be had.
        """
        if self._start is None or self._start.seed != seed:
            self._start = start_of(self._study, seed, self._pictures)
            self._note(f"seed {seed}: {self._start.data.describe_split()}")
        return self._start


Measured = list[tuple[int, int, float, float, float]]
"""Epoch, steps behind, top-1, test loss and measured seconds of training without scoring, at every
evaluation."""


_WARMUP = 0.05
"""Share of all steps, of every method of a study."""


def train(
    start: Start, recipe: Recipe, seed: int, lr: float, told: Callable[[int], None]
) -> Measured:
    """Train a copy of the start's model by a recipe."""
    lr = lr * recipe.lr_factor
    settings = FineTuneSettings(recipe.num_epochs, lr, warmup=_WARMUP, seed=seed)
    measured: Measured = []
    steps, seconds = 0, 0.0
    events = train_peer(
        start,
        recipe.schedules if recipe.policy is None else recipe.policy,
        settings,
        rescale=recipe.rescale,
        num_frozen_blocks=recipe.num_frozen_blocks,
    )
    for event in events:
        if isinstance(event, Stepped):
            steps, seconds = event.step, seconds + event.step_s
            told(steps)
        elif isinstance(event, Evaluated):
            scoring_s = recipe.policy.scoring_s if recipe.policy else 0.0
            measured.append((int(event.epoch), steps, event.top1, event.loss, seconds - scoring_s))
    return measured


def known_training(
    training: str, rows: list[dict[str, Any]], curves: list[dict[str, Any]]
) -> Measured | None:
    """What a run with the same training measured, or None."""
    key = next((row["key"] for row in rows if row.get("training") == training), None)
    if key is None:
        return None
    return [
        (c["epoch"], c["num_steps"], c["top1"], c["test_loss"], c["measured_train_s"])
        for c in curves
        if c["key"] == key
    ]


@dataclass(frozen=True, eq=False)
class Scoring:
    """What scoring cost, and when.

    Attributes:
        flops, seconds: of all passes.
        share_spent: of the passes, by the time that so many steps are done, ``[num_steps + 1]``.
    """

    flops: float
    seconds: float
    share_spent: np.ndarray


def scoring_of(recipe: Recipe, start: Start) -> Scoring:
    """What scoring cost in a run that has been trained."""
    policy, scored = recipe.policy, recipe.scored
    if policy is None:
        at_once = np.ones(len(recipe.schedules) + 1)
        return Scoring(scored.flops, scored.seconds, at_once) if scored else Scoring(0, 0, at_once)
    spent = np.cumsum([0, *policy.minibatches_scored])
    if not spent[-1]:
        return Scoring(0, policy.scoring_s, np.zeros(len(spent)))
    each = scoring_flops(start.model, start.workload, *policy.score_names)
    return Scoring(float(spent[-1]) * each, policy.scoring_s, spent / spent[-1])


def rows(
    head: dict[str, Any],
    recipe: Recipe,
    start: Start,
    everything: Start,
    measured: Measured,
    num_epochs: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a run and its curve, with `head` in front of both.

    Args:
        head: columns that say which run it is.
        recipe: of the run.
        start: with the adapters and mini-batches of its method.
        everything: without them; what the dense run begins with.
        measured: see `Measured`.
        num_epochs: of the dense run.
    """
    scoring = scoring_of(recipe, start)
    if recipe.policy is not None:
        recipe = replace(
            recipe, schedules=np.array(recipe.policy.schedules), solve_s=recipe.policy.solve_s
        )
    costs = StepCosts(recipe, start.workload, everything.workload)
    predictions = [costs.of(schedule) for schedule in recipe.schedules]
    dense = costs.dense()
    dense_steps = num_epochs * everything.num_minibatches
    scoring_flops = scoring.flops
    scoring_s = scoring_flops / dense.flops * dense.step_s
    step_s = np.array([p.step_s for p in predictions])
    flops = np.array([p.flops for p in predictions])
    values_of = ScheduleMemo(partial(gradient_values, start.workload))
    values = np.array([values_of(schedule) for schedule in recipe.schedules])
    every = np.full_like(recipe.schedules[0], Operation.FULL)
    dense_values = dense_steps * gradient_values(everything.workload, every)
    exchanged = np.array([p.exchange_bytes for p in predictions])
    scoring_bytes = scoring_flops / dense.flops * dense.exchange_bytes
    busy_s = np.mean([p.device_busy_s for p in predictions], axis=0)
    dense_flops = dense.flops * dense_steps
    curve = []
    for epoch, steps, top1, loss, seconds in measured:
        scored = scoring.share_spent[steps]
        spent = {
            "compute_fraction": (flops[:steps].sum() + scored * scoring_flops) / dense_flops,
            "gradient_fraction": values[:steps].sum() / dense_values,
            "simulated_s": step_s[:steps].sum() + scored * scoring_s,
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
        "gradient_fraction": values.sum() / dense_values,
        "peak_memory_bytes": max(p.peak_memory_bytes.max() for p in predictions),
        "way": "" if recipe.way is None else described(recipe.way, recipe.cluster),
        "dense_step_s": dense.step_s,
        "simulated_step_s": step_s.mean(),
        "simulated_step_max_s": step_s.max(),
        "simulated_scoring_s": scoring_s,
        "simulated_total_s": last["simulated_s"],
        "workload_cv": float(busy_s.std() / busy_s.mean()),
        "measured_train_s": last["measured_train_s"],
        "measured_scoring_s": scoring.seconds,
        "solver_s_per_step": recipe.solve_s / len(step_s),
        "solver_share_of_step": recipe.solve_s / last["measured_train_s"],
    }
    return row, curve
