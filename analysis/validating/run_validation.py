"""Running the plans of `analysis.validating.plans_tried`: on this device alone, or on the ranks of
a job."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.console.progress import TerminalProgress
from analysis.finetuning.rank_hosts import note_hosts
from analysis.names.placement_names import PlacementName
from analysis.names.precision_names import PrecisionName
from analysis.planning.placing import place
from analysis.planning.request import read_cluster
from analysis.validating.plans_tried import (
    Measured,
    direction_seconds,
    phase_table,
    rank_phase_seconds,
    validation_schedules,
    validation_table,
)
from analysis.validating.validated import Validated
from analysis.validating.validation_baselines import rank_baselines
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.measure.device_profile import DeviceProfile
from runtime.measure.rank_step_times import PHASES, measure_rank_steps
from runtime.measure.step_memory import check_step_on_ranks, check_whole_step
from runtime.measure.step_times import measure_steps
from runtime.models.build import build_model, shape_of
from runtime.models.peft_adapters import add_adapters
from runtime.ranks.agreement import check_same, together
from runtime.ranks.job import Ranks, check_agreement, ending_together, init_ranks
from runtime.ranks.rank_model import scatter_rank_model
from runtime.steady_settings import steady_process
from runtime.torch_device import device_name
from runtime.training.rank_part import build_on_meta
from sim.prediction import Prediction
from sim.step import simulate_step

UNTOUCHED = "untouched model"

FIRST_ROUNDS = 3
"""Of a profile, before the steps that go on in turns with it: one that does not count, and two by
which plans are made."""


@dataclass(frozen=True)
class ValidationRequest:
    """What to validate; attributes as the options of ``d2ft validate``, of which all ranks must
    be given those in `shared` alike."""

    cluster_file: Path | None
    model: str
    image_size: int | None
    num_tokens: int | None
    num_classes: int
    heads: int | list[int]
    num_microbatches: int
    microbatch_size: int
    num_waves: int
    overlap: bool
    lora: Lora | None
    placement: PlacementName
    num_repeats: int
    precision: PrecisionName
    device: str
    timeout_s: float
    seed: int
    shared: Mapping[str, str | None] = field(default_factory=dict)

    def workload(self, shape: ModelShape) -> Workload:
        """The request's mini-batch of a model.

        Raises:
            InputError: more waves than micro-batches, or heads that the model does not have.
        """
        if self.num_waves > self.num_microbatches:
            raise InputError(
                f"the number of waves is {self.num_waves}; it must be at most the "
                f"{counted(self.num_microbatches, 'micro-batch')}"
            )
        return Workload(
            shape,
            partition_by_heads(shape, self.heads),
            (self.microbatch_size,) * self.num_microbatches,
            ELEMENT_BYTES[self.precision],
            lora=self.lora,
        )

    def adapt(self, model: Any) -> None:
        """Put the adapters on, if any are to train.

        Raises:
            InputError: the model cannot have them.
        """
        if self.lora is not None:
            add_adapters(model, self.lora, self.seed)


def validate(request: ValidationRequest, progress: TerminalProgress) -> Validated:
    """Predict and measure every plan on the ranks of this job; alone if it has only one.

    Raises:
        InputError: no cluster file for several ranks, one of another number of devices, or what the
            model, placement and solvers refuse.
        RankError: another rank died or hung.
    """
    steady_process()
    ranks = init_ranks(request.device, timeout_s=request.timeout_s)
    with ending_together(ranks):
        together(ranks, lambda: check_same(ranks, request.shared), "the comparison of options")
        if ranks.num_ranks == 1:
            return _validate_alone(request, ranks, progress)
        return _validate_ranks(request, ranks, progress)


def _validate_alone(
    request: ValidationRequest, ranks: Ranks, progress: TerminalProgress
) -> Validated:
    device = ranks.device
    model = build_model(
        request.model,
        image_size=request.image_size,
        num_tokens=request.num_tokens,
        num_classes=request.num_classes,
        seed=request.seed,
    ).to(device)
    workload = request.workload(shape_of(model))
    if request.cluster_file is not None:
        cluster = read_cluster(request.cluster_file, request.precision)
        if len(cluster.devices) != 1:
            raise InputError(
                f"{request.cluster_file}: has {counted(len(cluster.devices), 'device')} and "
                f"this job one rank: start {len(cluster.devices)} with torchrun or d2ft testbed"
            )
    check_whole_step(workload, _dense(workload), ranks)  # of the untouched model, in one wave
    profile, before_round = None, _nothing
    if request.cluster_file is None:
        whole = model if request.lora is None else copy.deepcopy(model)
        profile = DeviceProfile(whole, replace(workload, lora=None), device)
        before_round = profile.run_round
        with progress.stage("Profile this device") as tell:
            for number in range(FIRST_ROUNDS):
                tell(number, FIRST_ROUNDS)
                profile.run_round()
        cluster = Cluster("this-device", (profile.device(),))
    request.adapt(model)
    schedules = validation_schedules(deploy(workload, cluster), request.seed)
    with progress.stage("Measure") as tell:
        steps = measure_steps(
            model,
            workload,
            {**schedules, UNTOUCHED: None},
            device,
            num_waves=request.num_waves,
            num_repeats=request.num_repeats,
            progress=tell,
            costs=cluster.devices[0],
            before_round=before_round,
        )
    if profile is not None:
        cluster = Cluster("this-device", (profile.device(),))
    deployment = deploy(workload, cluster, num_waves=request.num_waves)
    predicted = _predict(deployment, schedules, overlap=request.overlap)
    num_threads = next(iter(steps.values())).num_threads
    measured = {
        name: Measured(
            step_s=step.step_s,
            step_spread_s=step.step_spread_s,
            phase_s={
                "forward": np.array([step.forward_s]),
                "backward": np.array([step.backward_s]),
                "optimizer": np.array([step.optimizer_s]),
            },
            flops=step.flops,
            pair_bytes=np.zeros((1, 1)),
            peak_memory_bytes=np.array([step.peak_memory_bytes], dtype=float),
        )
        for name, step in steps.items()
    }
    untouched = {UNTOUCHED: measured.pop(UNTOUCHED)}
    phases = {name: direction_seconds(said) for name, said in predicted.items()}
    return Validated(
        table=validation_table(predicted, measured),
        phases=phase_table(phases, measured),
        baselines=validation_table({UNTOUCHED: predicted["dense"]}, untouched),
        cluster=cluster,
        placement=deployment.placement,
        device=f"{device_name(device)}, {counted(num_threads, 'thread')}",
        speaks=True,
    )


def _validate_ranks(
    request: ValidationRequest, ranks: Ranks, progress: TerminalProgress
) -> Validated:
    build = partial(
        build_model,
        request.model,
        image_size=request.image_size,
        num_tokens=request.num_tokens,
        num_classes=request.num_classes,
        seed=request.seed,
    )

    def own() -> Any:
        return build() if ranks.rank == 0 else build_on_meta(build)

    def adapted() -> Any:
        model = own()
        request.adapt(model)
        return model

    def read() -> tuple[Cluster, Workload, Any]:
        cluster = _cluster_of(request, ranks)
        whole = own()
        workload = request.workload(shape_of(whole))
        request.adapt(whole)
        return cluster, workload, whole

    cluster, workload, whole = together(ranks, read, "the reading of cluster and model")
    facts = {"cluster file": str(cluster)}
    together(
        ranks,
        lambda: check_agreement(ranks, facts, len(cluster.devices)),
        "the comparison of requests",
    )
    note_hosts(ranks, [device.name for device in cluster.devices], progress)

    def plan() -> tuple[Deployment, dict[str, np.ndarray]]:
        placed = place(request.placement, workload, cluster, request.num_waves).deployments[0]
        dense = _dense(workload)
        check_step_on_ranks(workload, placed.replicas, dense, ranks, overlap=request.overlap)
        if ranks.rank == 0:  # which runs the untouched model alone, too
            check_whole_step(workload, dense, Ranks(0, 1, ranks.device))
        in_one_wave = deploy(workload, cluster, placed.placement)
        return placed, validation_schedules(in_one_wave, request.seed)

    deployment, schedules = together(ranks, plan, "the making of plans")
    predicted = _predict(deployment, schedules, overlap=request.overlap)
    model = scatter_rank_model(whole, workload, deployment.replicas, ranks)
    stage: AbstractContextManager = progress.stage("Measure")
    if ranks.rank != 0:
        stage = nullcontext(lambda done, total: None)
    with stage as tell:
        steps = measure_rank_steps(
            model,
            schedules,
            overlap=request.overlap,
            num_repeats=request.num_repeats,
            progress=tell,
            costs=cluster.devices,
        )
    del model, whole
    baselines = rank_baselines(
        adapted,
        workload,
        cluster,
        ranks,
        num_repeats=request.num_repeats,
    )
    measured = {
        name: Measured(
            step_s=step.step_s,
            step_spread_s=step.step_spread_s,
            phase_s=dict(zip(PHASES, step.phase_s, strict=True)),
            flops=step.flops,
            pair_bytes=step.pair_bytes,
            peak_memory_bytes=step.peak_memory_bytes,
        )
        for name, step in steps.items()
    }
    phases = {name: rank_phase_seconds(said) for name, said in predicted.items()}
    return Validated(
        table=validation_table(predicted, measured),
        phases=phase_table(phases, measured),
        baselines=baselines,
        cluster=cluster,
        placement=deployment.placement,
        device=f"{counted(ranks.num_ranks, 'rank')}, {device_name(ranks.device)}",
        speaks=ranks.rank == 0,
    )


def _cluster_of(request: ValidationRequest, ranks: Ranks) -> Cluster:
    """The request's cluster, which has a device for each of several ranks."""
    if request.cluster_file is None:
        raise InputError(
            "several ranks need --cluster with their devices, such as one from "
            "d2ft profile --cluster-out"
        )
    cluster = read_cluster(request.cluster_file, request.precision)
    num_devices = len(cluster.devices)
    if num_devices != ranks.num_ranks:
        raise InputError(
            f"{request.cluster_file}: has {counted(num_devices, 'device')} and this job "
            f"{ranks.num_ranks} ranks: start {num_devices} with torchrun or d2ft testbed"
        )
    return cluster


def _nothing() -> None:
    """Before a round of steps where the device was profiled before."""


def _dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)


def _predict(
    deployment: Deployment, schedules: Mapping[str, np.ndarray], *, overlap: bool
) -> dict[str, Prediction]:
    return {
        name: simulate_step(deployment, schedule, overlap) for name, schedule in schedules.items()
    }
