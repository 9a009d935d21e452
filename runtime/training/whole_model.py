"""Training of a model that is whole on one device."""

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import step_flops, trunk_flops
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.sample_deal import SampleDeal
from runtime.captured_step import FixedStep
from runtime.checkpoint.checkpoint import MODEL
from runtime.data.dataset import Batch, Dataset, Samples, Wanted, runs
from runtime.families.family import ModelFamily
from runtime.families.known_families import family_of
from runtime.lanes.hooks import TaylorWatch, hooked, where_seen
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices
from runtime.models.linear_probe import fit_classifier
from runtime.models.peft_adapters import ADAPTER, has_adapters, save_adapter
from runtime.models.weights import save_weights, write_class_names, write_companions
from runtime.partitioned_step import forward_backward
from runtime.ranks.job import Ranks
from runtime.ranks.shards import parameter_blocks, read_shards, trained_dtype, whole_shards
from runtime.torch_device import Stopwatch, assumed_device, autocast, synchronize
from runtime.training.events import START, Evaluated, Position, StepTimes, TrainedStep
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.outcome_totals import OutcomeTotals
from runtime.training.resting_rows import Resting, resting
from runtime.training.schedule_memo import ScheduleMemo
from runtime.training.weight_update import HeldPart, WeightUpdate, half_type

_EVALUATED_SAMPLES, _EVALUATED_LABELS = 128, 16_384
"""The most that pass forward together."""


class WholeModel:
    """A `runtime.training.events.Trainer` of all subnets on one device."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        workload: Workload,
        settings: FineTuneSettings,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        costs: Device | None = None,
    ) -> None:
        """Take `model`, which is on `device`, into training.

        The seconds of lanes are told from those of the trunk by their FLOPs: autograd runs both in
        one piece. `costs` say what runs together; default those assumed of `device`.

        Raises:
            InputError: the data have more classes than the model.
        """
        self._family = family_of(model)
        check_classes(data, self._family, self._family.classifier(model).out_features)
        self._model, self._workload, self._class_names = model, workload, data.class_names
        self._settings, self._device, self._clock = settings, device, clock
        self._costs = costs or assumed_device(device)
        self._train, self._test = data.train.to(device), data.test.to(device)
        self._batches: Generator[Batch, None, None] = self._train.read(())
        self._update = WeightUpdate(whole_part(model, device), workload.optimizer, settings)
        self._watch = TaylorWatch(workload, device) if settings.watch_scores else None
        self._known = ScheduleMemo(self._ready)

    def fit_classifier(self) -> float:
        return fit_classifier(self._model, self._train)

    def begin(self, minibatches: Iterable[Wanted]) -> None:
        self._batches = self._train.read(minibatches)

    def end(self) -> None:
        self._batches.close()

    def take(self, deal: SampleDeal) -> None:
        self._workload, self._known = deal.workload, ScheduleMemo(self._ready)

    def step(self, samples: np.ndarray, schedule: np.ndarray, lr: float) -> TrainedStep:
        done = self._train_on(samples, *self._known(schedule), lr)
        if self._watch is None:
            return done
        return replace(done, seen=where_seen(self._watch.take(schedule), self._workload, schedule))

    def _train_on(
        self, samples: np.ndarray, prepared: "PreparedStep", run: FixedStep, lr: float
    ) -> TrainedStep:
        watch = Stopwatch(self._device, self._clock)
        watch.lap("start")
        self._model.train()
        inputs = self._family.to_inputs(self._model, next(self._batches).of(samples))
        watch.lap("images")
        stays = len(self._known) == 1 and self._watch is None
        may_capture = stays and self._update.loss_scale == 1.0
        labels = self._train.labels[torch.from_numpy(samples).to(self._device)]
        loss = run(inputs, labels, may_capture=may_capture)
        watch.lap("model")
        norm = self._update.apply(lr, prepared.resting)
        watch.lap("optimizer")
        seconds = watch.seconds()
        lanes_s = prepared.lane_share * seconds["model"]
        times = StepTimes(lanes_s, sum(seconds.values()) - lanes_s, 0.0)
        return TrainedStep(float(loss), times, gradient_norm=norm)

    def evaluate(self, at: Position) -> Evaluated:
        with self._update.averaged():
            return evaluate(self._model, self._test, at)

    def save_model(self, path: Path) -> tuple[str, ...]:
        save_weights(self._model, path)
        return path.name, *write_companions(self._model, path.parent, self._class_names)

    def save_result(self, folder: Path) -> None:
        with self._update.averaged():
            if not has_adapters(self._model):
                self.save_model(folder / MODEL)
                return
            trained = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
            save_adapter(self._model, trained, folder / ADAPTER)
            if self._class_names:
                write_class_names(folder / ADAPTER, self._class_names)

    def save_state(self, folder: Path) -> tuple[str, ...]:
        return *self.save_model(folder / MODEL), *self._update.save(folder)

    def load_state(self, folder: Path) -> None:
        parameters, shards = dict(self._model.named_parameters()), whole_shards(self._model)
        dtype = trained_dtype(self._model)
        for name, tensor in read_shards(folder / MODEL, shards, dtype, set(parameters)).items():
            parameters[name].data.copy_(tensor)
        self._update.load(folder)

    def _ready(self, schedule: np.ndarray) -> tuple["PreparedStep", FixedStep]:
        prepared = self._look_up(schedule)
        return prepared, FixedStep(self._model, partial(self._forward_backward, prepared.slices))

    def _forward_backward(self, slices: ScheduleSlices, inputs: Tensor, labels: Tensor) -> Tensor:
        with autocast(self._device, self._workload, half_type(self._settings)):
            return forward_backward(
                self._model,
                inputs,
                labels,
                slices,
                label_smoothing=self._settings.label_smoothing,
                loss_scale=self._update.loss_scale,
            )

    def _look_up(self, schedule: np.ndarray) -> "PreparedStep":
        prepared = self._prepared(self._workload, schedule)
        if self._watch is None:
            return prepared
        slices = hooked(prepared.slices, self._workload, self._watch.hook)
        return replace(prepared, slices=slices)

    def _prepared(self, workload: Workload, schedule: np.ndarray) -> "PreparedStep":
        return PreparedStep(
            slice_schedule(
                workload,
                schedule,
                self._settings.num_waves,
                self._costs,
                recomputes=self._settings.recomputes,
            ),
            lane_share(workload, schedule),
            resting(self._model, whole_shards(self._model), workload, schedule),
        )


@dataclass(frozen=True, eq=False)
class PreparedStep:
    """What has been worked out for a schedule.

    Attributes:
        slices: of it.
        lane_share: part of its FLOPs that its lanes have.
        resting: what it does not train.
    """

    slices: ScheduleSlices
    lane_share: float
    resting: Resting


def whole_part(model: nn.Module, device: torch.device) -> HeldPart:
    """All of a model, held by one process."""
    names, shards = [name for name, _ in model.named_parameters()], whole_shards(model)
    family = family_of(model)
    block_of = parameter_blocks(family, names, len(family.blocks(model)))
    ranks = Ranks(0, 1, device)
    return HeldPart(
        model, shards, shards, names, block_of, trained_dtype(model), ranks, is_cut=False
    )


def lane_share(workload: Workload, schedule: np.ndarray) -> float:
    """Part of a step's FLOPs that its lanes have; the rest is the trunk's."""
    trunk = trunk_flops(workload)
    return 1 - float((trunk.forward + trunk.backward).sum()) / step_flops(workload, schedule)


def samples_at_once(labels: Tensor) -> int:
    """Samples that pass forward together: 128, or fewer where each has many labels."""
    return max(1, min(_EVALUATED_SAMPLES, _EVALUATED_LABELS * len(labels) // labels.numel()))


def check_classes(data: Dataset, family: ModelFamily, num_classes: int) -> None:
    """Refuse data of more classes than a classifier has, where labels are classes.

    Raises:
        InputError: naming both.
    """
    if family.has_class_labels and data.num_classes > num_classes:
        raise InputError(
            f"data {data.name!r} have {counted(data.num_classes, 'class')}; "
            f"the model's classifier has {num_classes}"
        )


@torch.no_grad()
def evaluate(model: nn.Module, test: Samples, at: Position = START) -> Evaluated:
    """Accuracy and mean loss of the whole model, on the device of `test`."""
    start = time.perf_counter()
    model.eval()
    family = family_of(model)
    totals = OutcomeTotals(family, model, test.labels.device)
    batch_size = samples_at_once(test.labels)
    every = list(runs(len(test), batch_size))
    for rows, batch in zip(every, test.read(map(Wanted, every)), strict=True):
        labels = test.labels[torch.from_numpy(rows).to(test.labels.device)]
        features = family.whole_features(model, family.to_inputs(model, batch.of(rows)))
        totals.add(family.outcome(model, features, labels))
    synchronize(test.labels.device)
    return totals.evaluated(at, test.labels, start)
