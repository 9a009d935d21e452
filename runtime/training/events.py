"""What a training loop needs: its settings, the events that it yields, what it asks of a model."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from d2ft_sched.errors import InputError
from runtime.data.dataset import Wanted

_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True)
class FineTuneSettings:
    """How to fine-tune.

    Attributes:
        num_epochs: passes through the mini-batches.
        lr: peak learning rate.
        weight_decay: as `runtime.models.optimizers.create_optimizer` has it.
        lr_decay: ``cosine``, which would reach zero one step after the last, or ``constant``.
        warmup_steps: steps in which the learning rate rises linearly to its peak.
        linear_probe: fit the classifier on frozen features first.
        recomputes: on one device, whether lanes run forward again in backward (gradient
            checkpointing); ranks know it from the plan's placement.
        num_waves: passes of a mini-batch.
        watch_scores: whether each step tells the scores of its operations.
        seed: of the drawing of mini-batches and of their order.
    """

    num_epochs: int = 3
    lr: float = 2e-5
    weight_decay: float = 0.05
    lr_decay: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 5
    linear_probe: bool = True
    recomputes: bool = False
    num_waves: int = 1
    watch_scores: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise InputError(f"number of epochs is {self.num_epochs}; it must be at least 1")
        if not 0 < self.lr < math.inf:
            raise InputError(f"learning rate is {self.lr}; it must be above 0 and finite")
        if self.lr_decay not in ("cosine", "constant"):
            raise InputError(f"lr decay is {self.lr_decay!r}; it must be cosine or constant")


def learning_rate(settings: FineTuneSettings, step: int, num_steps: int) -> float:
    """Of the step with this index, counted from 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / (settings.warmup_steps + 1)
    if settings.lr_decay == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


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


@dataclass(frozen=True)
class DeviceChange:
    """Why a device has other operations than before.

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
            schedule of its own.
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
class Replanned:
    """Devices got other operations, from the step after `step` on.

    Attributes:
        step: counted from 1, whose times and those before led to it.
        reason: for people, one line.
        changes: of the devices for which the schedule was made anew.
        seconds: that sharing times, solving and agreeing took.
    """

    step: int
    reason: str
    changes: tuple[DeviceChange, ...]
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The test samples were classified, or their tokens foretold; `epoch` 0 is before training.

    Attributes:
        epoch: after which it was.
        top1: share of what counts that got the highest logit: samples, or tokens.
        loss: mean over what counts.
        num_samples: of the test part.
        num_counted: what counts: samples, or tokens.
        perplexity: of tokens, exp of the loss; None of classes.
        seconds: that it took.
    """

    epoch: int
    top1: float
    loss: float
    num_samples: int
    num_counted: int
    perplexity: float | None
    seconds: float


def evaluated(
    epoch: int,
    *,
    num_right: float,
    loss_sum: float,
    num_samples: int,
    num_counted: int,
    of_tokens: bool,
    seconds: float,
) -> Evaluated:
    """From sums over what counts. A perplexity beyond floats is infinite."""
    loss = loss_sum / max(1, num_counted)
    perplexity = None
    if of_tokens:
        perplexity = math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf
    return Evaluated(
        epoch=epoch,
        top1=num_right / max(1, num_counted),
        loss=loss,
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
    """

    loss: float
    times: StepTimes
    seen: np.ndarray | None = None


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

    def step(self, samples: np.ndarray, schedule: np.ndarray, lr: float) -> TrainedStep:
        """Train on one mini-batch.

        Args:
            samples: indices of training samples, int ``[num_samples]``, micro-batch after
                micro-batch.
            schedule: int ``[num_subnets, num_microbatches]``.
            lr: learning rate.
        """
        ...

    def evaluate(self, epoch: int) -> Evaluated:
        """Classify the test samples with the whole model."""
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
