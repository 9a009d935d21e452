"""A fine-tuning run from a plan: its events as metrics on disk and as a result."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.progress import TerminalProgress
from d2ft_sched.atomic_write import write_text
from d2ft_sched.errors import InputError
from d2ft_sched.operations import Operation
from d2ft_sched.plan import Plan
from d2ft_sched.provenance import provenance
from d2ft_sched.schedule import uniform_schedule
from runtime.data.load import load_data
from runtime.device import autocast_dtype, device_name, keep_freed_memory, select_device
from runtime.finetune import fine_tune
from runtime.models import build_model, shape_of
from runtime.training import Evaluated, FineTuneSettings, Stepped
from runtime.weights import save_weights


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
    precision: str
    device: str
    seed: int


def run_finetune(request: FineTuneRequest, out: Path, progress: TerminalProgress) -> dict[str, Any]:
    """Train, write ``metrics.jsonl``, ``provenance.json`` and ``model.safetensors`` to `out`.

    Raises:
        InputError: the plan is for another model than can be built with these options, or the data
            cannot be used.
    """
    keep_freed_memory()
    plan, device = request.plan, select_device(request.device)
    image_size = request.image_size or _image_size_of(plan)
    dtype = autocast_dtype(request.precision)
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
            weights=request.weights,
            pretrained=request.pretrained,
            seed=request.seed,
        ).to(device)
    _check_same_model(plan, shape_of(model))
    schedule = plan.schedule
    if request.dense:
        num_subnets, num_microbatches = schedule.shape
        schedule = uniform_schedule(num_subnets, num_microbatches, Operation.FULL)
    settings = FineTuneSettings(
        num_epochs=request.num_epochs,
        lr=request.learning_rate,
        linear_probe=request.linear_probe,
        num_waves=plan.num_waves,
        autocast_dtype=dtype,
        seed=request.seed,
    )
    records: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    steps: list[Stepped] = []
    with progress.stage("Fine-tune") as tell:
        for event in fine_tune(model, data, plan.workload, schedule, settings, device):
            records.append({"event": type(event).__name__.lower(), **asdict(event)})
            if isinstance(event, Stepped):
                steps.append(event)
                tell(event.step, event.num_steps)
            elif isinstance(event, Evaluated):
                epochs.append(
                    {
                        "epoch": event.epoch,
                        "train_loss": float(np.mean([s.loss for s in steps])) if steps else None,
                        "test_accuracy": event.top1,
                        "train_s": sum(s.step_s for s in steps) if steps else None,
                        "flops": sum(s.flops for s in steps),
                    }
                )
                steps = []
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_text(out / "metrics.jsonl", lines)
    facts = provenance(request.seed, device=device_name(device))
    write_text(out / "provenance.json", json.dumps(facts, indent=1) + "\n")
    save_weights(model, out / "model.safetensors")
    return {
        "data": data.name,
        "device": device_name(device),
        "epochs": epochs,
        "out": str(out),
        "provenance": facts,
    }


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
