"""Training of one rank's part of a model, together with the other ranks."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.cluster.device import Device
from d2ft_sched.files.atomic_write import write_atomically
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.schedule.replica import microbatch_owners
from d2ft_sched.schedule.waves import running_samples
from runtime.checkpoint.checkpoint import MODEL
from runtime.data.dataset import Batch, Dataset, Wanted
from runtime.data.minibatches import Minibatches
from runtime.lanes.held_units import held_units
from runtime.lanes.hooks import TaylorWatch, hooked_rank, where_seen
from runtime.models.linear_probe import fit_linear, set_classifier
from runtime.models.peft_adapters import ADAPTER, save_adapter
from runtime.models.weights import write_class_names, write_companions
from runtime.ranks.agreement import sum_arrays
from runtime.ranks.job import start_sum
from runtime.ranks.rank_forward import rank_outputs
from runtime.ranks.rank_model import RankModel
from runtime.ranks.rank_samples import testing_owners, training_needs, training_owners
from runtime.ranks.rank_slices import RankSlices, slice_rank_schedule
from runtime.ranks.rank_step import rank_forward_backward
from runtime.ranks.shards import read_shards
from runtime.ranks.wave.rank_wave import RankBatch
from runtime.tensor_file import TensorSpec, write_tensors
from runtime.torch_device import Stopwatch, assumed_device, autocast
from runtime.training.events import Evaluated, Position, StepTimes, TrainedStep
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.outcome_totals import OutcomeTotals
from runtime.training.own_samples import OwnSamples
from runtime.training.resting_rows import Resting, resting
from runtime.training.schedule_memo import ScheduleMemo
from runtime.training.weight_update import HeldPart, WeightUpdate, half_type
from runtime.training.whole_model import check_classes, samples_at_once
from runtime.without_values import without_values


class RankPart:
    """A `runtime.training.events.Trainer` of the subnets and micro-batches of one rank."""

    def __init__(
        self,
        model: RankModel,
        data: Dataset,
        minibatches: Minibatches,
        settings: FineTuneSettings,
        clock: Callable[[], float] = time.perf_counter,
        costs: Sequence[Device] | None = None,
        *,
        moves: bool = False,
    ) -> None:
        """Take a rank's part into training; of the samples it uses those that it owns.

        Args:
            model: what the rank holds.
            data: pictures, of which the rank needs those that it owns.
            minibatches: as `runtime.training.loop.training_minibatches` gives them.
            settings: how to train.
            clock: that steps are timed by where the device has no events of its own.
            costs: devices of the ranks; default those assumed of what this one runs on.
            moves: whether samples may move between replicas while it trains.

        Raises:
            InputError: the data have more classes than the model.
        """
        check_classes(data, model.family, model.num_classes)
        self._model, self._settings, self._clock = model, settings, clock
        self._rank, self._device = model.ranks.rank, model.ranks.device
        self._class_names = data.class_names
        self._train_owner = training_owners(minibatches, model.workload, model.replicas)
        self._test_owner = testing_owners(len(data.test), model.replicas)
        needed = training_needs(
            minibatches,
            settings.num_epochs,
            model.workload,
            model.replicas,
            self._rank,
            moves=moves,
        )
        self._train = OwnSamples(model, data.train, needed)
        self._test = OwnSamples(model, data.test, self._test_owner == self._rank)
        self._batches: Generator[Batch, None, None] = self._train.read(())
        self._update = WeightUpdate(rank_part(model), model.workload.optimizer, settings)
        self._watch = None
        if settings.watch_scores:
            self._watch = TaylorWatch(model.workload, self._device)
        self._costs = costs or [assumed_device(self._device)] * model.ranks.num_ranks
        self._forget()

    def fit_classifier(self) -> float:
        model = self._model
        features = torch.zeros(
            len(self._train_owner), model.workload.shape.width, device=self._device
        )
        for outputs in rank_outputs(
            model, self._train_owner, self._train.passes, self._train.key_mask
        ):
            features[torch.from_numpy(outputs.rows)] = outputs.features.to(features.dtype)
        start_sum(model.ranks, features, "the fit of the classifier").wait()
        num_classes = model.num_classes
        fitted = torch.zeros(num_classes * (features.shape[1] + 1) + 1, dtype=torch.float64)
        if self._rank == model.owners[0]:
            weight, bias, accuracy = fit_linear(
                features, self._train.labels.to(self._device), num_classes
            )
            fitted = torch.cat([weight.flatten(), bias, weight.new_tensor([accuracy])])
        fitted = fitted.to(self._device)
        start_sum(model.ranks, fitted, "the fit of the classifier").wait()
        if self._rank in model.owners:
            weight, bias = fitted[:-1].split([num_classes * features.shape[1], num_classes])
            set_classifier(model.family.classifier(model.module), weight, bias)
        return float(fitted[-1])

    def begin(self, minibatches: Iterable[Wanted]) -> None:
        model = self._model
        of_samples = np.repeat(microbatch_owners(model.replicas), model.workload.samples)
        is_own = of_samples == self._rank
        self._batches = self._train.read(Wanted(one.rows[is_own], one.epoch) for one in minibatches)

    def end(self) -> None:
        self._batches.close()

    def take(self, deal: SampleDeal) -> None:
        self._model = replace(self._model, workload=deal.workload, replicas=deal.replicas)
        self._forget()

    def step(self, samples: np.ndarray, schedule: np.ndarray, lr: float) -> TrainedStep:
        watch = Stopwatch(self._device, self._clock)
        watch.lap("start")
        self._model.module.train()
        slices = self._slices(schedule)
        rows = samples[slices.owned_samples]
        batch = RankBatch(
            self._train.inputs(next(self._batches), rows),
            self._train.labels[torch.from_numpy(rows)].to(self._device),
            self._num_counted(samples, schedule).to(self._device),
            self._train.key_mask_of(samples),
            self._settings.label_smoothing,
            self._update.loss_scale,
        )
        with autocast(self._device, self._model.workload, half_type(self._settings)):
            watch.lap("images")
            loss = rank_forward_backward(self._model, batch, slices, watch=watch)
        norm = self._update.apply(lr, self._resting(schedule))
        watch.lap("optimizer")
        seen = None
        if self._watch is not None:
            what = "the sharing of scores"
            seen = where_seen(
                sum_arrays(self._model.ranks, self._watch.take(schedule), what),
                self._model.workload,
                schedule,
            )
        return TrainedStep(float(loss), _times(watch.seconds()), seen, norm)

    def evaluate(self, at: Position) -> Evaluated:
        start = time.perf_counter()
        self._model.module.eval()
        family, module = self._model.family, self._model.module
        totals, most = (
            OutcomeTotals(family, module, self._device),
            samples_at_once(self._test.labels),
        )
        with self._update.averaged():
            for outputs in rank_outputs(
                self._model, self._test_owner, self._test.passes, self._test.key_mask, most
            ):
                labels = self._test.labels[torch.from_numpy(outputs.rows)].to(self._device)
                totals.add(family.outcome(module, outputs.features, labels))
        start_sum(self._model.ranks, totals.sums, "the evaluation").wait()
        return totals.evaluated(at, self._test.labels, start)

    def save_model(self, path: Path) -> tuple[str, ...]:
        tensors = self._whole_tensors(full_shapes(self._model))
        try:
            if self._rank == 0:
                write_atomically(path, lambda temporary: self._write_model(temporary, tensors))
        finally:
            for _ in tensors:  # also where the file cannot be written: the others send on
                pass
        if self._rank > 0:
            return ()
        return path.name, *write_companions(self._model.module, path.parent, self._class_names)

    def save_result(self, folder: Path) -> None:
        with self._update.averaged():
            if self._model.workload.lora is None:
                self.save_model(folder / MODEL)
                return
            names = [name for name in full_shapes(self._model) if name in self._model.trained]
            values = dict(zip(names, self._whole_tensors(names), strict=True))
        if self._rank == 0:
            save_adapter(self._model.module, values, folder / ADAPTER)
            if self._class_names:
                write_class_names(folder / ADAPTER, self._class_names)

    def save_state(self, folder: Path) -> tuple[str, ...]:
        return *self.save_model(folder / MODEL), *self._update.save(folder)

    def load_state(self, folder: Path) -> None:
        shards, dtype = self._model.own_shards, self._model.dtype
        parameters = dict(self._model.module.named_parameters())
        for name, tensor in read_shards(folder / MODEL, shards, dtype).items():
            parameters[name].data.copy_(tensor)
        self._update.load(folder)

    def _forget(self) -> None:
        """Nothing has been worked out yet for any schedule of the micro-batches."""
        self._slices = ScheduleMemo(self._slice)
        self._resting = ScheduleMemo(self._what_rests)

    def _num_counted(self, samples: np.ndarray, schedule: np.ndarray) -> Tensor:
        """Losses that count of those of a mini-batch's samples that run."""
        own = samples[running_samples(schedule, self._model.workload.samples)]
        return self._model.family.num_counted(self._train.labels[torch.from_numpy(own)]).sum()

    def _slice(self, schedule: np.ndarray) -> RankSlices:
        model, replica = self._model, self._model.replica
        workload, rank = model.workload, self._rank
        slices = slice_rank_schedule(workload, model.replicas, schedule, rank, self._costs)
        if self._watch is None or replica is None:
            return slices
        blocks = range(workload.shape.num_blocks)
        held = [held_units(workload, replica.placement, rank, block) for block in blocks]
        return hooked_rank(slices, workload, held, self._watch.hook)

    def _what_rests(self, schedule: np.ndarray) -> Resting:
        model = self._model
        return resting(model.module, model.own_shards, model.workload, schedule)

    def _write_model(self, path: Path, tensors: Iterable[Tensor]) -> None:
        specs = [
            TensorSpec(name, shape, self._model.dtype)
            for name, shape in full_shapes(self._model).items()
        ]
        write_tensors(path, specs, tensors)

    def _whole_tensors(self, names: Iterable[str]) -> Iterator[Tensor]:
        """Parameters whole, one after another, on rank 0; empty ones on the others.

        All ranks must exhaust this together, with the same names.
        """
        ranks, what = self._model.ranks, "the collection of the whole model"
        parameters = dict(self._model.module.named_parameters())
        written = [
            {shard.name: shard for shard in self._model.written_shards(rank)}
            for rank in range(ranks.num_ranks)
        ]
        shapes = full_shapes(self._model)
        for name in names:
            whole = torch.empty(
                shapes[name] if ranks.rank == 0 else 0, dtype=self._model.dtype, device=ranks.device
            )
            for source, held in enumerate(written):
                if name not in held:
                    continue
                shard = held[name]
                if source == ranks.rank == 0:
                    shard.put(parameters[name].detach().to(whole.dtype), whole)
                elif source == ranks.rank:
                    with ranks.watched(what):
                        dist.send(parameters[name].detach().to(whole.dtype).contiguous(), 0)
                elif ranks.rank == 0:
                    part = torch.empty(shard.shape, dtype=whole.dtype, device=ranks.device)
                    with ranks.watched(what):
                        dist.recv(part, source)
                    shard.put(part, whole)
            yield whole


def rank_part(model: RankModel) -> HeldPart:
    """What a rank holds."""
    return HeldPart(
        model.module,
        model.own_shards,
        model.written_shards(model.ranks.rank),
        list(full_shapes(model)),
        model.trained_blocks,
        model.dtype,
        model.ranks,
        is_cut=any(s.shape != s.full_shape for shards in model.shards for s in shards),
    )


def full_shapes(model: RankModel) -> dict[str, tuple[int, ...]]:
    """Of all parameters of the model, in an order that is the same on all ranks."""
    return {s.name: s.full_shape for shards in model.shards for s in shards}


def _times(seconds: Mapping[str, float]) -> StepTimes:
    lanes_s = sum(s for name, s in seconds.items() if name.endswith("lanes"))
    exchanging = ("dispatch", "combine", "all-reduce")
    exchange_s = sum(s for name, s in seconds.items() if name.endswith(exchanging))
    return StepTimes(lanes_s, sum(seconds.values()) - lanes_s - exchange_s, exchange_s)


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` builds, without memory for its parameters."""
    with without_values():
        return build()
