"""A common start for methods that are compared, and their training."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from d2ft_sched.model.lora import Lora
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from runtime.data.dataset import Dataset
from runtime.lanes.hooks import rescaled
from runtime.models.linear_probe import fit_classifier
from runtime.models.peft_adapters import add_adapters
from runtime.peers.followed_schedules import FollowedSchedules
from runtime.peers.frozen_prefix import freeze_prefix
from runtime.scoring.training_scores import scoring_flops, training_scores
from runtime.training.events import Event
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import ScheduleOf, train, training_minibatches
from runtime.training.whole_model import PreparedStep, WholeModel


@dataclass(frozen=True, eq=False)
class Start:
    """What all methods of one seed begin with.

    Attributes:
        model: with its classifier fitted; never trained itself.
        data: samples, on any device.
        workload: subnets and micro-batches.
        seed: of the mini-batches and their order.
        device: where to train.
        known_scores: what `score_start` has computed so far, by the names of the two scores.
        adapted: what `with_adapters` has made so far.
    """

    model: nn.Module
    data: Dataset
    workload: Workload
    seed: int
    device: torch.device
    known_scores: dict[tuple[str, str], "Scored"] = field(default_factory=dict)
    adapted: dict[Lora, "Start"] = field(default_factory=dict)

    @property
    def num_minibatches(self) -> int:
        """Of an epoch."""
        return len(training_minibatches(self.data.train, self.workload, self.seed))


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of all mini-batches, and what they cost together."""

    scores: list[Scores]
    flops: float
    seconds: float


def common_start(
    model: nn.Module,
    data: Dataset,
    workload: Workload,
    seed: int,
    device: torch.device,
    *,
    linear_probe: bool,
) -> Start:
    """Take a model into a comparison; with `linear_probe` its classifier is fitted first."""
    model = model.to(device)
    if linear_probe:
        fit_classifier(model, data.train.to(device))
    return Start(model, data, workload, seed, device)


def with_adapters(start: Start, lora: Lora) -> Start:
    """The start of methods that train adapters on the same model."""
    if lora not in start.adapted:
        model = copy.deepcopy(start.model)
        add_adapters(model, lora, start.seed)
        model.to(start.device)
        workload = replace(start.workload, lora=lora)
        start.adapted[lora] = Start(model, start.data, workload, start.seed, start.device)
    return start.adapted[lora]


def with_larger_minibatches(start: Start, factor: int) -> Start:
    """The start of methods that update once in so many mini-batches."""
    sizes = start.workload.microbatch_samples * factor
    larger = replace(start.workload, microbatch_samples=sizes)
    return replace(start, workload=larger, known_scores={}, adapted={})


def score_start(start: Start, forward_score: str, backward_score: str) -> Scored:
    """Score every mini-batch of an epoch on the model as it is before training, once."""
    names = forward_score, backward_score
    if names not in start.known_scores:
        begin = time.perf_counter()
        scores = list(
            training_scores(
                start.model,
                start.data,
                start.workload,
                start.seed,
                start.device,
                forward_score=forward_score,
                backward_score=backward_score,
            )
        )
        seconds = time.perf_counter() - begin
        flops = scoring_flops(start.model, start.workload, forward_score, backward_score)
        start.known_scores[names] = Scored(scores, float(flops) * len(scores), seconds)
    return start.known_scores[names]


def score_chosen(
    start: Start,
    forward_score: str,
    backward_score: str,
    model: nn.Module,
    minibatches: Sequence[int],
) -> list[Scores]:
    """Scores of a few mini-batches, by index, on a model in training."""
    return list(
        training_scores(
            model,
            start.data,
            start.workload,
            start.seed,
            start.device,
            chosen=minibatches,
            forward_score=forward_score,
            backward_score=backward_score,
        )
    )


def train_peer(
    start: Start,
    schedules: np.ndarray | FollowedSchedules,
    settings: FineTuneSettings,
    *,
    rescale: bool = False,
    num_frozen_blocks: int = 0,
) -> Iterator[Event]:
    """Fine-tune a copy of the start's model.

    Args:
        start: what all methods share.
        schedules: of every step, int8 ``[num_steps, num_subnets, num_microbatches]``, or what
            decides them; its scoring and solving count as part of the step.
        settings: how; its seed must be the start's.
        rescale: see `runtime.lanes.hooks.rescaled`.
        num_frozen_blocks: first blocks that do not train, nor does the embedding then.
    """
    model = copy.deepcopy(start.model)
    freeze_prefix(model, num_frozen_blocks)
    learner: FollowedSchedules | None = None
    if isinstance(schedules, FollowedSchedules):
        schedules.begin(model)
        schedule_of: ScheduleOf = schedules
        learner = schedules if schedules.watches else None
    else:
        steps = iter(schedules)
        schedule_of = lambda step, minibatch: next(steps)  # noqa: E731
    settings = replace(settings, linear_probe=False, watch_scores=learner is not None)
    arguments = model, start.data, start.workload, settings, start.device
    trainer = Rescaling(*arguments) if rescale else WholeModel(*arguments)
    minibatches = training_minibatches(start.data.train, start.workload, start.seed)
    yield from train(trainer, minibatches, start.workload, schedule_of, settings, learner=learner)


class Rescaling(WholeModel):
    """Gradients of kept paths as `runtime.lanes.hooks.rescaled` has them."""

    def _look_up(self, schedule: np.ndarray) -> PreparedStep:
        prepared = super()._look_up(schedule)
        slices = rescaled(prepared.slices, self._workload, schedule, self._device)
        return replace(prepared, slices=slices)
