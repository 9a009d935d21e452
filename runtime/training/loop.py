"""Fine-tuning under a schedule: one for all mini-batches, or one for each."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import nn

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.waves import running_microbatches
from runtime.data.dataset import Dataset, Samples, Wanted
from runtime.data.minibatches import Minibatches, draw_minibatches, redealt
from runtime.training.events import Event, Position, Probed, Stepped, Trainer
from runtime.training.finetune_settings import FineTuneSettings, is_evaluated, learning_rate
from runtime.training.replanner import Replanner
from runtime.training.schedule_memo import ScheduleMemo
from runtime.training.whole_model import WholeModel

ScheduleOf = Callable[[int, int], np.ndarray]
"""From a step, counted from 0, and the index of its mini-batch to its schedule, int
``[num_subnets, num_microbatches]``."""


class Learner(Protocol):
    """Who makes schedules of what is seen in passing."""

    def see(self, minibatch: int, seen: np.ndarray) -> None:
        """Told the mini-batch of a step that was done, and its `TrainedStep.seen`."""
        ...


def fine_tune(
    model: nn.Module,
    data: Dataset,
    workload: Workload,
    schedule: np.ndarray | ScheduleOf,
    settings: FineTuneSettings,
    device: torch.device,
) -> Iterator[Event]:
    """Fine-tune `model` in place, yielding what happens as it happens.

    On a CPU the same seed, threads and inputs give bitwise the same losses.

    Args:
        model: on `device`, in its own layout throughout.
        data: samples of the model's input size.
        workload: subnets, micro-batches and optimizer.
        schedule: of all steps, or of each with its mini-batch of `training_minibatches`.
        settings: how.
        device: where.

    Raises:
        InputError: the samples do not fill one mini-batch, or have more classes than the model.
    """
    trainer = WholeModel(model, data, workload, settings, device)
    minibatches = training_minibatches(data.train, workload, settings.seed)
    return train(trainer, minibatches, workload, schedule, settings)


def train(
    trainer: Trainer,
    minibatches: Minibatches,
    workload: Workload,
    schedule: np.ndarray | ScheduleOf,
    settings: FineTuneSettings,
    num_done: int | None = None,
    replanner: Replanner | None = None,
    learner: Learner | None = None,
    owner: Sequence[int] | None = None,
) -> Iterator[Event]:
    """The loop of `fine_tune` over any trainer, from its beginning or from a checkpoint on.

    While an event is handled the trainer is between two steps and may be saved. Nothing random is
    drawn: the order of an epoch comes from the seed and the epoch's number.

    Args:
        trainer: the model in training.
        minibatches: as `training_minibatches` gives them.
        workload: subnets and micro-batches.
        schedule: of all steps, or of each with its mini-batch.
        settings: how.
        num_done: steps that `trainer` has behind it; None begins with the classifier's fit. At the
            end of an epoch, and before the first, the evaluation is still to come.
        replanner: told every step, and heard before the step is reported, so that who saves the
            training when it hears of a step saves what follows from it, too.
        learner: told what every step has seen, where the settings ask for it.
        owner: device of every micro-batch; default one for all. Where a schedule leaves samples
            out, a mini-batch's are dealt anew in each step to micro-batches of the same owner, so
            that others are left out.

    Raises:
        InputError: there are more steps behind than there are in all.
    """
    num_steps = settings.num_epochs * len(minibatches)
    if num_done is not None and not 0 <= num_done <= num_steps:
        raise InputError(
            f"{counted(num_done, 'step')} are done; {counted(settings.num_epochs, 'epoch')} "
            f"have {num_steps}"
        )
    if num_done is None and settings.linear_probe:
        start = time.perf_counter()
        yield Probed(trainer.fit_classifier(), time.perf_counter() - start)
    dealt = _Dealt(workload, owner or [0] * workload.num_microbatches)
    deal = replanner.deal if replanner is not None else None
    if deal is not None:
        trainer.take(deal)
        dealt = _Dealt(deal.workload, deal.owner)
    first = num_done or 0
    trainer.begin(wanted(minibatches, first, num_steps))
    try:
        if is_evaluated(settings, first, len(minibatches)):
            yield trainer.evaluate(Position(first, len(minibatches)))
        for step in range(first, num_steps):
            start = time.perf_counter()
            epoch, position = step // len(minibatches) + 1, step % len(minibatches)
            if step == first or position == 0:
                order, samples = minibatches.order(epoch), minibatches.of_epoch(epoch)
            minibatch = int(order[position])
            operations = schedule(step, minibatch) if callable(schedule) else schedule
            solve_s = time.perf_counter() - start
            lr = learning_rate(settings, step, num_steps)
            chosen, running = samples[minibatch], running_microbatches(operations)
            if len(running) < dealt.workload.num_microbatches:
                chosen = redealt(chosen, dealt.sample_owner, (settings.seed, step))
            done = trainer.step(chosen, operations, lr)
            if learner is not None and done.seen is not None:
                learner.see(minibatch, done.seen)
            step_s = time.perf_counter() - start
            if replanner is not None:
                replanned = replanner.after_step(step + 1, operations, done.times)
                if replanned is not None:
                    yield replanned
            yield Stepped(
                step=step + 1,
                num_steps=num_steps,
                epoch=epoch,
                minibatch=minibatch,
                num_samples=int(dealt.workload.samples[running].sum()),
                loss=done.loss,
                lr=lr,
                flops=dealt.flops(operations),
                step_s=step_s,
                solve_s=solve_s,
                times=done.times,
                gradient_norm=done.gradient_norm,
            )
            if replanner is not None and replanner.deal is not deal:
                deal = replanner.deal
                assert deal is not None
                trainer.take(deal)
                dealt = _Dealt(deal.workload, deal.owner)
                trainer.begin(wanted(minibatches, step + 1, num_steps))
            if is_evaluated(settings, step + 1, len(minibatches)):
                yield trainer.evaluate(Position(step + 1, len(minibatches)))
    finally:
        trainer.end()


class _Dealt:
    """What follows from how mini-batches are dealt."""

    def __init__(self, workload: Workload, owner: Sequence[int]) -> None:
        self.workload = workload
        self.sample_owner = np.repeat(owner, workload.samples)
        self.flops = ScheduleMemo(partial(step_flops, workload))


def wanted(minibatches: Minibatches, first: int, num_steps: int) -> Iterator[Wanted]:
    """What the steps from index `first` on train on, without their order of micro-batches."""
    for step in range(first, num_steps):
        epoch, position = step // len(minibatches) + 1, step % len(minibatches)
        if step == first or position == 0:
            order, samples = minibatches.order(epoch), minibatches.of_epoch(epoch)
        yield Wanted(samples[order[position]], epoch)


def training_minibatches(train: Samples, workload: Workload, seed: int) -> Minibatches:
    """The mini-batches of `fine_tune`."""
    return draw_minibatches(len(train), int(workload.samples.sum()), seed)
