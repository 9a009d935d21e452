"""Plans from files, predicted and measured on the ranks of a job."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.console.progress import TerminalProgress
from analysis.finetuning.rank_hosts import note_hosts
from analysis.validating.plans_tried import (
    Measured,
    phase_table,
    rank_phase_seconds,
    validation_table,
)
from analysis.validating.validated import Validated
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.plan.plan_file import dump_plan, load_plan
from d2ft_sched.plan.solved_plan import Plan
from runtime.measure.rank_step_times import PHASES, RankStepMeasurement, measure_rank_steps
from runtime.measure.step_memory import check_step_on_ranks
from runtime.models.build import (
    build_model,
    check_known,
    check_same_shape,
    input_format_of,
    shape_of,
)
from runtime.models.peft_adapters import add_adapters
from runtime.ranks.agreement import check_same, together
from runtime.ranks.job import Ranks, check_agreement, ending_together, init_ranks
from runtime.ranks.rank_devices import on_ranks, rank_devices
from runtime.ranks.rank_model import RankModel, draw_rank_model
from runtime.steady_settings import steady_process
from runtime.torch_device import device_name
from runtime.training.rank_part import build_on_meta
from sim.step import simulate_plan


@dataclass(frozen=True)
class PlansRequest:
    """Which plans to validate; attributes as the options of ``d2ft validate``.

    Attributes:
        files: of plans for as many devices as there are ranks.
    """

    files: Sequence[Path]
    image_size: int | None
    overlap: bool
    num_repeats: int
    device: str
    timeout_s: float
    seed: int
    shared: Mapping[str, str | None] = field(default_factory=dict)


def validate_plans(request: PlansRequest, progress: TerminalProgress) -> Validated:
    """Predict and measure every plan on the ranks of this job, with weights that are drawn.

    Raises:
        InputError: a plan cannot be read, is for another number of ranks, or of a model that
            cannot be built.
        RankError: another rank died or hung.
    """
    steady_process()
    ranks = init_ranks(request.device, timeout_s=request.timeout_s)
    with ending_together(ranks):
        together(ranks, lambda: check_same(ranks, request.shared), "the comparison of options")
        plans = together(ranks, lambda: _read(request, ranks), "the reading of plans")
        facts = {f"plan {name}": dump_plan(plan) for name, plan in plans.items()}
        together(
            ranks,
            lambda: check_agreement(ranks, facts, ranks.num_ranks),
            "the comparison of plans",
        )
        first = next(iter(plans.values()))
        devices = rank_devices(first, ranks.num_ranks)
        note_hosts(ranks, [first.cluster.devices[d].name for d in devices], progress)
        stage: AbstractContextManager[Any] = progress.stage("Measure")
        if ranks.rank != 0:
            stage = nullcontext(lambda done, total: None)
        measured = {}
        with stage as tell:
            for name, plan in plans.items():
                measured[name] = _measure(request, name, plan, ranks)
                tell(len(measured), len(plans))
    predicted = {name: simulate_plan(plan, overlap=request.overlap) for name, plan in plans.items()}
    phases = {
        name: rank_phase_seconds(predicted[name], [r.devices for r in plan.replicas])
        for name, plan in plans.items()
    }
    return Validated(
        table=validation_table(predicted, measured),
        phases=phase_table(phases, measured),
        baselines=pd.DataFrame(),
        cluster=first.cluster,
        placement=None,
        device=f"{counted(ranks.num_ranks, 'rank')}, {device_name(ranks.device)}",
        speaks=ranks.rank == 0,
    )


def _read(request: PlansRequest, ranks: Ranks) -> dict[str, Plan]:
    """The plans by their files' names."""
    plans: dict[str, Plan] = {}
    for file in request.files:
        plan = load_plan(file)
        try:
            rank_devices(plan, ranks.num_ranks)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        if len(plan.cluster.devices) > 1 and ranks.num_ranks == 1:
            raise InputError(
                f"{file}: is for {counted(len(plan.cluster.devices), 'device')} and this job "
                f"has one rank: start one for each with torchrun or d2ft testbed"
            )
        _check_memory(file, plan, request, ranks)
        if file.stem in plans:
            raise InputError(f"{file}: another plan is named {file.stem!r}, too; rename one")
        check_known(plan.workload.shape.name)
        plans[file.stem] = plan
    return plans


def _check_memory(file: Path, plan: Plan, request: PlansRequest, ranks: Ranks) -> None:
    replicas = on_ranks(plan.replicas, rank_devices(plan, ranks.num_ranks))
    try:
        check_step_on_ranks(plan.workload, replicas, plan.schedule, ranks, overlap=request.overlap)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _measure(request: PlansRequest, name: str, plan: Plan, ranks: Ranks) -> Measured:
    devices = rank_devices(plan, ranks.num_ranks)
    model = together(ranks, lambda: _part(request, plan, ranks), "the building of the model")
    steps = measure_rank_steps(
        model, {name: plan.schedule}, overlap=request.overlap, num_repeats=request.num_repeats
    )
    return of_devices(steps[name], devices, len(plan.cluster.devices))


def _part(request: PlansRequest, plan: Plan, ranks: Ranks) -> RankModel:
    shape = plan.workload.shape
    sizes: dict[str, Any] = {**input_format_of(shape, request.image_size).sizes}
    sizes["num_classes"] = num_classes(shape)
    model = build_on_meta(partial(build_model, shape.name, seed=request.seed, **sizes))
    check_same_shape(shape, shape_of(model))
    if plan.workload.lora is not None:
        add_adapters(model, plan.workload.lora, request.seed)
    replicas = on_ranks(plan.replicas, rank_devices(plan, ranks.num_ranks))
    return draw_rank_model(model, plan.workload, replicas, ranks)


def num_classes(shape: ModelShape) -> int:
    """Of a linear classifier with bias."""
    return shape.classifier_parameters // (shape.width + 1)


def of_devices(run: RankStepMeasurement, devices: Sequence[int], num_devices: int) -> Measured:
    """What ranks measured, by the devices of the cluster that they are."""
    index = np.array(devices)

    def spread(values: np.ndarray) -> np.ndarray:
        result = np.zeros(num_devices)
        result[index] = values
        return result

    pair_bytes = np.zeros((num_devices, num_devices))
    pair_bytes[np.ix_(index, index)] = run.pair_bytes
    return Measured(
        step_s=run.step_s,
        step_spread_s=run.step_spread_s,
        phase_s={name: spread(of) for name, of in zip(PHASES, run.phase_s, strict=True)},
        flops=run.flops,
        pair_bytes=pair_bytes,
        peak_memory_bytes=spread(run.peak_memory_bytes),
    )
