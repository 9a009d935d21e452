"""What a training loop yields, and what it asks of a model."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from d2ft_sched.plan.sample_deal import SampleDeal
from runtime.data.dataset import Wanted
from runtime.families.class_loss import TOP

_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class StepTimes:
    """Where the seconds of a step went on this rank.

    Attributes:
        lanes_s: computing lane groups.
        rest_s: computing the trunk and the update, which no schedule changes.
        exchange_s: messages, and waiting for other ranks.
    """

    lanes_s: float
    rest_s: float
    exchange_s: float


@dataclass(frozen=True)
class Probed:
    """The classifier was fitted on frozen features."""

    train_top1: float
    seconds: float


@dataclass(frozen=True)
class Scored:
    """Every mini-batch was scored, before training.

    Attributes:
        num_minibatches: of an epoch.
        forward_score, backward_score: names of the scores.
        flops: of all the scoring.
        seconds: that it took.
    """

    num_minibatches: int
    forward_score: str
    backward_score: str
    flops: float
    seconds: float


@dataclass(frozen=True)
class Stepped:
    """A training step is done.

    Attributes:
        step: counted from 1, of `num_steps` in all.
        epoch: counted from 1.
        minibatch: which mini-batch it was.
        num_samples: samples of the mini-batch.
        loss: mean cross-entropy of the mini-batch before the update.
        lr: learning rate of the update.
        flops: predicted FLOPs of the step under its schedule.
        step_s: seconds of the step, choosing its schedule, reading the loss and learning from
            what was seen included.
        solve_s: seconds of these that choosing its schedule took.
        times: where they went on this rank.
        gradient_norm: of all gradients before they were clipped; None where they are not.
    """

    step: int
    num_steps: int
    epoch: int
    minibatch: int
    num_samples: int
    loss: float
    lr: float
    flops: float
    step_s: float
    solve_s: float
    times: StepTimes
    gradient_norm: float | None = None


@dataclass(frozen=True)
class DeviceChange:
    """Why a device has other operations than before, or its replica other samples.

    Attributes:
        device: its name.
        slowdown: seconds of its lanes over those that the same operations took in the first steps.
        slowdown_before: what the operations before were planned for.
        later_s: measured seconds that its lanes have to give up beside that, for what else takes
            longer than then; below 0 where they may take longer.
        later_before_s: what the operations before gave up.
        lanes_s: measured seconds of its lanes, a step.
        rest_s: measured seconds of its trunk and optimizer.
        num_full, num_forward_only: its operations from now on; None where each mini-batch has a
            schedule of its own, or samples move.
        num_full_before, num_forward_only_before: before.
    """

    device: str
    slowdown: float
    slowdown_before: float
    later_s: float
    later_before_s: float
    lanes_s: float
    rest_s: float
    num_full: int | None = None
    num_forward_only: int | None = None
    num_full_before: int | None = None
    num_forward_only_before: int | None = None


@dataclass(frozen=True)
class MovedShare:
    """Samples that a replica, on devices of these names, runs in a step, now and before."""

    devices: tuple[str, ...]
    num_samples: int
    num_samples_before: int


@dataclass(frozen=True)
class Replanned:
    """Devices got other operations, or replicas other samples, from the step after `step` on.

    Attributes:
        step: counted from 1, whose times and those before led to it.
        reason: for people, one line.
        changes: of the devices that compute at another pace.
        seconds: that sharing times, solving and agreeing took.
        shares: of every replica, where samples move between them.
    """

    step: int
    reason: str
    changes: tuple[DeviceChange, ...]
    seconds: float
    shares: tuple[MovedShare, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """The test samples were classified, or their tokens foretold.

    Attributes:
        epoch: passes through the mini-batches that were done, a whole number or not; 0 is before
            training.
        step: steps that were done.
        top1: share of what counts that got the highest logit: samples, or tokens.
        loss: mean over what counts.
        top5: share of samples whose class was among the five highest logits; None of tokens and of
            five classes or fewer.
        class_top1: `top1` of the samples of each class, None of a class without any; None of
            tokens.
        num_samples: of the test part.
        num_counted: what counts: samples, or tokens.
        perplexity: of tokens, exp of the loss; None of classes.
        seconds: that it took.
    """

    epoch: float
    step: int
    top1: float
    loss: float
    top5: float | None
    class_top1: tuple[float | None, ...] | None
    num_samples: int
    num_counted: int
    perplexity: float | None
    seconds: float


@dataclass(frozen=True)
class Position:
    """Where in a training its model is evaluated.

    Attributes:
        step: steps that were done.
        steps_per_epoch: of the training.
    """

    step: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Passes through the mini-batches that were done; a whole number is an int."""
        whole, more = divmod(self.step, self.steps_per_epoch)
        return self.step / self.steps_per_epoch if more else whole


START = Position(0, 1)
"""Before training."""


def evaluated(
    at: Position,
    *,
    num_right: float,
    loss_sum: float,
    of_classes: Sequence[float],
    num_of_class: Sequence[int],
    num_samples: int,
    num_counted: int,
    seconds: float,
) -> Evaluated:
    """From sums over what counts.

    Args:
        at: when it was.
        num_right: of what counts.
        loss_sum: of what counts.
        of_classes: as `runtime.families.class_loss.Outcome` has it; empty of tokens.
        num_of_class: samples of each class; empty of tokens.
        num_samples: of the test part.
        num_counted: what counts.
        seconds: that it took.
    """
    loss = loss_sum / max(1, num_counted)
    perplexity = top5 = class_top1 = None
    if num_of_class:
        shares = zip(of_classes, num_of_class, strict=False)
        class_top1 = tuple(right / num if num else None for right, num in shares)
        top5 = of_classes[-1] / max(1, num_counted) if len(num_of_class) > TOP else None
    else:
        perplexity = math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf
    return Evaluated(
        epoch=at.epoch,
        step=at.step,
        top1=num_right / max(1, num_counted),
        loss=loss,
        top5=top5,
        class_top1=class_top1,
        num_samples=num_samples,
        num_counted=num_counted,
        perplexity=perplexity,
        seconds=seconds,
    )


Event = Probed | Scored | Stepped | Replanned | Evaluated


@dataclass(frozen=True)
class TrainedStep:
    """What a trainer says of a step.

    Attributes:
        loss: mean loss of the mini-batch before the update, the same on every rank.
        times: of this rank.
        seen: Taylor scores of the operations, float ``[num_subnets, num_microbatches]``, NaN where
            they were not FULL, the same on every rank; None if the settings do not ask for them.
        gradient_norm: of all gradients before they were clipped, the same on every rank; None where
            they are not clipped.
    """

    loss: float
    times: StepTimes
    seen: np.ndarray | None = None
    gradient_norm: float | None = None


class Trainer(Protocol):
    """A model in training: whole on one device, or this rank's part of it.

    With several ranks every method is called on all of them, in the same order.
    """

    def fit_classifier(self) -> float:
        """Fit the classifier on frozen features; top-1 accuracy on the training samples."""
        ...

    def begin(self, minibatches: Iterable[Wanted]) -> None:
        """Told the mini-batch of each step to come, as `step` will be given them, but for the order
        of an owner's samples; so that what is not in memory can be read ahead."""
        ...

    def end(self) -> None:
        """Told that no step will come: nothing is read ahead any more, and who reads ends."""
        ...

    def take(self, deal: SampleDeal) -> None:
        """From the next step on mini-batches are dealt so; `begin` is called anew after it."""
        ...

    def step(self, samples: np.ndarray, schedule: np.ndarray, lr: float) -> TrainedStep:
        """Train on one mini-batch.

        Args:
            samples: indices of training samples, int ``[num_samples]``, micro-batch after
                micro-batch.
            schedule: int ``[num_subnets, num_microbatches]``.
            lr: learning rate.
        """
        ...

    def evaluate(self, at: Position) -> Evaluated:
        """Classify the test samples with the whole model, or with the average of its weights."""
        ...

    def save_model(self, path: Path) -> tuple[str, ...]:
        """Write all parameters as one safetensors file in the model's own layout, atomically.

        Beside it stand the files that the family's library needs to read it. The names of all that
        this rank wrote are returned.
        """
        ...

    def save_result(self, folder: Path) -> None:
        """Write what was trained: all parameters, or adapters in the format of `peft`."""
        ...

    def save_state(self, folder: Path) -> tuple[str, ...]:
        """Write parameters and optimizer state; the names of the files that this rank wrote."""
        ...

    def load_state(self, folder: Path) -> None:
        """Inverse of `save_state`, by whatever placement and number of ranks it was written."""
        ...
