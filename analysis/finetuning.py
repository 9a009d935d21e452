"""A fine-tuning run from a plan: metrics while it runs, checkpoints, and a result."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.metrics_file import MetricsFile, Record, epoch_rows, records_until, started
from analysis.progress import TerminalProgress
from analysis.training_run import CheckpointPolicy, Outcome, follow
from d2ft_sched.atomic_write import write_text
from d2ft_sched.errors import InputError
from d2ft_sched.operations import Operation
from d2ft_sched.plan import Plan
from d2ft_sched.plan_file import dump_plan
from d2ft_sched.provenance import provenance
from d2ft_sched.schedule import uniform_schedule
from runtime.checkpoint import (
    MODEL,
    Found,
    Setting,
    TrainingState,
    check_no_newer,
    check_same_settings,
    resolve_checkpoint,
)
from runtime.data.image_data import ImageData
from runtime.data.load import load_data
from runtime.device import autocast_dtype, device_name, keep_freed_memory, select_device
from runtime.finetune import train, training_minibatches
from runtime.models import build_model, shape_of
from runtime.training import Event, FineTuneSettings, Stepped, Trainer
from runtime.whole_model import WholeModel


@dataclass(frozen=True)
class FineTuneRequest:
    """What to fine-tune, on what, how; fields as the options of ``d2ft finetune``."""

    plan: Plan
    data: str
    data_root: Path | None
    download: bool
    num_train: int | None
    num_test: int | None
    image_size: int | None
    weights: str | None
    pretrained: bool
    num_epochs: int
    learning_rate: float
    linear_probe: bool
    dense: bool
    autocast: str
    device: str
    checkpoint_dir: Path
    checkpoint_every: int | None
    resume: str | None
    keep: int | None
    seed: int


@dataclass(frozen=True)
class FineTuneResult:
    """What came of it.

    Attributes:
        summary: data, device, one row per epoch, folder and provenance.
        outcome: how it ended.
        notes: what a user should know, a line each.
    """

    summary: dict[str, Any]
    outcome: Outcome
    notes: tuple[str, ...]


def run_finetune(request: FineTuneRequest, out: Path, progress: TerminalProgress) -> FineTuneResult:
    """Train, write ``metrics.jsonl``, checkpoints, ``provenance.json`` and ``model.safetensors``.

    SIGINT and SIGTERM let the running step end, and leave a checkpoint.

    Raises:
        InputError: the plan is for another model than can be built with these options, the data
            cannot be used, or the checkpoint cannot be gone on from.
    """
    keep_freed_memory()
    job = _prepare(request, progress)
    facts = dict(job.state.provenance)
    metrics = MetricsFile(out / "metrics.jsonl", _first_records(out, job))
    policy = CheckpointPolicy(request.checkpoint_dir, request.checkpoint_every, request.keep)
    with progress.stage("Fine-tune") as tell:

        def on_event(event: Event) -> None:
            metrics.add(event)
            if isinstance(event, Stepped):
                tell(event.step, event.num_steps)

        events = train(
            job.trainer,
            job.minibatches,
            request.plan.workload,
            job.schedule,
            job.settings,
            job.state.step if job.found else None,
        )
        begun_with = job.found.path if job.found else None
        outcome = follow(events, job.trainer, job.state, policy, on_event, begun_with)
    metrics.close()
    summary = {
        "data": job.data_name,
        "device": facts["device"],
        "epochs": epoch_rows(metrics.records),
        "out": str(out),
        "provenance": facts,
    }
    if outcome.signal is None:
        write_text(out / "provenance.json", json.dumps(facts, indent=1) + "\n")
        job.trainer.save_model(out / MODEL)
    return FineTuneResult(summary, outcome, job.notes)


@dataclass(frozen=True)
class _Job:
    """A training that is ready to start, or to go on from `found`."""

    trainer: Trainer
    minibatches: np.ndarray
    schedule: np.ndarray
    settings: FineTuneSettings
    state: TrainingState
    found: Found | None
    data_name: str
    notes: tuple[str, ...]


def _prepare(request: FineTuneRequest, progress: TerminalProgress) -> _Job:
    plan, device = request.plan, select_device(request.device)
    found = None
    if request.resume is None:
        check_no_newer(request.checkpoint_dir, -1)
    else:
        found = resolve_checkpoint(request.resume, request.checkpoint_dir)
    image_size = request.image_size or _image_size_of(plan)
    settings = FineTuneSettings(
        num_epochs=request.num_epochs,
        lr=request.learning_rate,
        linear_probe=request.linear_probe,
        num_waves=plan.num_waves,
        autocast_dtype=autocast_dtype(request.autocast, device),
        seed=request.seed,
    )
    with progress.stage("Read pictures") as tell:
        data = load_data(
            request.data,
            image_size=image_size,
            num_train=request.num_train,
            num_test=request.num_test,
            seed=request.seed,
            data_root=request.data_root,
            download=request.download,
            progress=tell,
        )
    with progress.stage("Build the model"):
        model = build_model(
            plan.workload.shape.name,
            image_size=image_size,
            num_classes=data.num_classes,
            weights=None if found else request.weights,
            pretrained=request.pretrained and not found,
            seed=request.seed,
        ).to(device)
    _check_same_model(plan, shape_of(model))
    minibatches = training_minibatches(data.train, plan.workload, settings.seed)
    trainer = WholeModel(model, data, plan.workload, settings, device)
    state = TrainingState(
        step=0,
        num_steps=settings.num_epochs * len(minibatches),
        steps_per_epoch=len(minibatches),
        epoch=1,
        position=0,
        seed=request.seed,
        settings=_lasting_settings(request, settings, data, image_size),
        plan_sha256=json.loads(dump_plan(plan))["sha256"],
        num_ranks=1,
        provenance=provenance(request.seed, device=device_name(device)),
    )
    notes: list[str] = []
    if found:
        check_same_settings(found.path, found.state.settings, state.settings)
        trainer.load_state(found.path)
        notes += found.refused.values()
        if found.state.plan_sha256 != state.plan_sha256:
            notes.append(f"{found.path}: goes on under another plan than it was written with")
        now = found.state
        state = replace(state, step=now.step, epoch=now.epoch, position=now.position)
    schedule = plan.schedule
    if request.dense:
        num_subnets, num_microbatches = schedule.shape
        schedule = uniform_schedule(num_subnets, num_microbatches, Operation.FULL)
    return _Job(trainer, minibatches, schedule, settings, state, found, data.name, tuple(notes))


def _lasting_settings(
    request: FineTuneRequest, settings: FineTuneSettings, data: ImageData, image_size: int
) -> dict[str, Setting]:
    """What must not change while a training lasts; plan, placement and devices may."""
    return {
        "model": request.plan.workload.shape.name,
        "optimizer": request.plan.workload.optimizer,
        "minibatch_samples": int(request.plan.workload.samples.sum()),
        "data": data.name,
        "num_train": len(data.train),
        "num_classes": data.num_classes,
        "image_size": image_size,
        "num_epochs": settings.num_epochs,
        "lr": settings.lr,
        "lr_decay": settings.lr_decay,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "linear_probe": settings.linear_probe,
        "dense": request.dense,
        "seed": settings.seed,
    }


def _first_records(out: Path, job: _Job) -> list[Record]:
    """What the file of metrics begins with: of a training that goes on, all until there."""
    state = job.state
    facts = {"plan_sha256": state.plan_sha256, "num_ranks": state.num_ranks}
    began = started(settings=dict(state.settings), **facts, provenance=dict(state.provenance))
    if job.found is None:
        return [began]
    resumed = {"event": "resumed", "step": state.step, "checkpoint": str(job.found.path), **facts}
    before = records_until(out / "metrics.jsonl", state.step) or [began]
    return [*before, {**resumed, "provenance": dict(state.provenance)}]


def _image_size_of(plan: Plan) -> int:
    """The pixels of the plan's images: an embedding of P patches of E elements has E x P inputs."""
    shape = plan.workload.shape
    num_inputs = shape.embed_flops / (2 * shape.width)
    size = round((num_inputs / 3) ** 0.5)
    if 3 * size**2 != num_inputs:
        raise InputError(
            f"the plan is for {shape.name!r}, which does not say its image size; give --image-size"
        )
    return size


def _check_same_model(plan: Plan, built: Any) -> None:
    planned = plan.workload.shape
    for name in (
        "num_blocks",
        "num_heads",
        "head_dim",
        "width",
        "mlp_hidden",
        "num_tokens",
        "layer_scale",
    ):
        ours, theirs = getattr(planned, name), getattr(built, name)
        if ours != theirs:
            raise InputError(
                f"the plan is for another model: {planned.name} with {name} {ours}; "
                f"the model built here has {theirs}"
            )
