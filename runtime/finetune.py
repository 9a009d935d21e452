"""Fine-tuning under a schedule: one for all mini-batches, or one for each."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.errors import InputError
from d2ft_sched.flops import step_flops
from d2ft_sched.workload import Workload
from runtime.data.image_data import ImageData, Split
from runtime.data.minibatches import draw_minibatches, epoch_order, normalize
from runtime.device import autocast, synchronize
from runtime.lane_slices import ScheduleSlices, slice_schedule
from runtime.linear_probe import fit_classifier
from runtime.models import normalization_of
from runtime.optimizers import create_optimizer
from runtime.partitioned import forward_backward

ScheduleOf = Callable[[int], np.ndarray]
"""From the index of a mini-batch to its schedule, int ``[num_subnets, num_microbatches]``."""


@dataclass(frozen=True)
class FineTuneSettings:
    """How to fine-tune.

    Attributes:
        num_epochs: passes through the mini-batches.
        lr: peak learning rate.
        weight_decay: of weights; biases, norms and positions do not decay.
        lr_decay: ``cosine`` to zero at the last step, or ``constant``.
        warmup_steps: steps in which the learning rate rises linearly to its peak.
        linear_probe: fit the classifier on frozen features first.
        num_waves: passes of a mini-batch.
        autocast_dtype: mixed precision, or None.
        seed: of the drawing of mini-batches and of their order.
    """

    num_epochs: int = 3
    lr: float = 2e-5
    weight_decay: float = 0.05
    lr_decay: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 5
    linear_probe: bool = True
    num_waves: int = 1
    autocast_dtype: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise InputError(f"number of epochs is {self.num_epochs}; it must be at least 1")
        if not 0 < self.lr < math.inf:
            raise InputError(f"learning rate is {self.lr}; it must be above 0 and finite")
        if self.lr_decay not in ("cosine", "constant"):
            raise InputError(f"lr decay is {self.lr_decay!r}; it must be cosine or constant")


@dataclass(frozen=True)
class Probed:
    """The classifier was fitted on frozen features."""

    train_top1: float
    seconds: float


@dataclass(frozen=True)
class Stepped:
    """A training step is done.

    Attributes:
        step: counted from 1, of `num_steps` in all.
        epoch: counted from 1.
        minibatch: which mini-batch it was.
        loss: mean cross-entropy of the mini-batch before the update.
        lr: learning rate of the update.
        flops: predicted FLOPs of the step under its schedule.
        step_s: seconds of the step, reading the loss included.
    """

    step: int
    num_steps: int
    epoch: int
    minibatch: int
    loss: float
    lr: float
    flops: float
    step_s: float


@dataclass(frozen=True)
class Evaluated:
    """The test pictures were classified; `epoch` 0 is before training."""

    epoch: int
    top1: float
    loss: float
    num_samples: int
    seconds: float


Event = Probed | Stepped | Evaluated


def fine_tune(
    model: VisionTransformer,
    data: ImageData,
    workload: Workload,
    schedule: np.ndarray | ScheduleOf,
    settings: FineTuneSettings,
    device: torch.device,
) -> Iterator[Event]:
    """Fine-tune `model` in place, yielding what happens as it happens.

    On a CPU the same seed, threads and inputs give bitwise the same losses.

    Args:
        model: on `device`, in timm's layout throughout.
        data: pictures of the model's image size.
        workload: subnets, micro-batches and optimizer.
        schedule: for all mini-batches, or from the index of a mini-batch of `training_minibatches`.
        settings: how.
        device: where.

    Raises:
        InputError: the pictures do not fill one mini-batch, or have more classes than the model.
    """
    if data.num_classes > model.num_classes:
        raise InputError(
            f"data {data.name!r} have {data.num_classes} classes; "
            f"the model's classifier has {model.num_classes}"
        )
    train, test = data.train.to(device), data.test.to(device)
    minibatches = training_minibatches(train, workload, settings.seed)
    num_steps = settings.num_epochs * len(minibatches)
    if settings.linear_probe:
        start = time.perf_counter()
        yield Probed(fit_classifier(model, train), time.perf_counter() - start)
    yield evaluate(model, test, epoch=0)

    model.train()
    mean, std = normalization_of(model)
    optimizer = create_optimizer(
        model, workload.optimizer, lr=settings.lr, weight_decay=settings.weight_decay
    )
    schedules = _Schedules(workload, schedule, settings.num_waves)
    step = 0
    for epoch in range(1, settings.num_epochs + 1):
        for minibatch in epoch_order(len(minibatches), epoch, settings.seed):
            start = time.perf_counter()
            slices, flops = schedules.of(int(minibatch))
            chosen = torch.from_numpy(minibatches[minibatch]).to(device)
            images = normalize(train.images[chosen], mean, std)
            lr = learning_rate(settings, step, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with autocast(device, settings.autocast_dtype):
                loss = forward_backward(model, images, train.labels[chosen], slices)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            yield Stepped(
                step=step,
                num_steps=num_steps,
                epoch=epoch,
                minibatch=int(minibatch),
                loss=float(loss),
                lr=lr,
                flops=flops,
                step_s=time.perf_counter() - start,
            )
        yield evaluate(model, test, epoch)
        model.train()


def training_minibatches(train: Split, workload: Workload, seed: int) -> np.ndarray:
    """The samples of each mini-batch of `fine_tune`, int ``[num_minibatches, num_samples]``."""
    return draw_minibatches(len(train), int(workload.samples.sum()), seed)


def learning_rate(settings: FineTuneSettings, step: int, num_steps: int) -> float:
    """Of the step with this index, counted from 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_decay == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def evaluate(
    model: VisionTransformer, test: Split, epoch: int = 0, batch_size: int = 128
) -> Evaluated:
    """Top-1 accuracy and mean loss of the whole model, on the device of `test`."""
    start = time.perf_counter()
    model.eval()
    mean, std = normalization_of(model)
    num_right = torch.zeros((), device=test.labels.device)
    loss = torch.zeros((), device=test.labels.device)
    for images, labels in zip(
        test.images.split(batch_size), test.labels.split(batch_size), strict=True
    ):
        logits = model(normalize(images, mean, std))
        num_right += logits.argmax(1).eq(labels).sum()
        loss += F.cross_entropy(logits, labels, reduction="sum")
    synchronize(test.labels.device)
    return Evaluated(
        epoch=epoch,
        top1=float(num_right) / len(test),
        loss=float(loss) / len(test),
        num_samples=len(test),
        seconds=time.perf_counter() - start,
    )


class _Schedules:
    """Slices and FLOPs of each mini-batch's schedule, made once for each different schedule."""

    def __init__(
        self, workload: Workload, schedule: np.ndarray | ScheduleOf, num_waves: int
    ) -> None:
        self._workload, self._num_waves = workload, num_waves
        self._schedule = schedule
        self._made: dict[bytes, tuple[ScheduleSlices, float]] = {}

    def of(self, minibatch: int) -> tuple[ScheduleSlices, float]:
        schedule = self._schedule(minibatch) if callable(self._schedule) else self._schedule
        key = np.asarray(schedule).astype(np.int8).tobytes()
        if key not in self._made:
            slices = slice_schedule(self._workload, schedule, self._num_waves)
            self._made[key] = slices, step_flops(self._workload, schedule)
        return self._made[key]
