"""Following a training to its end, or to a signal: events reported, checkpoints written."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from analysis.console.interruption import noticing_interruption
from analysis.finetuning.best_weights import best_of
from d2ft_sched.errors import InputError
from runtime.checkpoint.checkpoint import save_checkpoint
from runtime.checkpoint.facts import BestEvaluation, TrainingState
from runtime.ranks.agreement import ALONE, any_rank, together
from runtime.ranks.job import Ranks
from runtime.training.events import Evaluated, Event, Replanned, Stepped
from runtime.training.replanner import Replanner


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where and when to write checkpoints.

    Attributes:
        directory: of this training's checkpoints.
        every: steps from one to the next, the last step included; None for none but those of an
            interruption.
        keep: newest to keep; None for all.
    """

    directory: Path
    every: int | None = None
    keep: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        state: where it stands.
        signal: that ended it before its end, or None.
        checkpoint: newest one that it wrote or began with.
    """

    state: TrainingState
    signal: signal.Signals | None
    checkpoint: Path | None


def follow(
    events: Iterator[Event],
    save_state: Callable[[Path], Sequence[str]],
    state: TrainingState,
    policy: CheckpointPolicy,
    on_event: Callable[[Event], object],
    begun_with: Path | None = None,
    ranks: Ranks = ALONE,
    replanner: Replanner | None = None,
    keep_best: Callable[[BestEvaluation], object] | None = None,
) -> Outcome:
    """Run `events` of `runtime.training.loop.train`, on all ranks at once.

    SIGINT and SIGTERM on any rank let the running step end, and leave a checkpoint.

    Args:
        events: of the training.
        save_state: writes this rank's files of a checkpoint and names them.
        state: before the first event.
        policy: of checkpoints.
        on_event: told each event before its step is saved; an `InputError` that it raises on any
            rank ends the training on all.
        begun_with: the checkpoint that `state` was read from.
        ranks: that train together.
        replanner: of this training, whose state is saved with it.
        keep_best: keeps the weights of an evaluation that is better than all before.

    Raises:
        InputError: from `on_event`, or a checkpoint cannot be written.
        RankError: another rank raised one, died or hung.
    """
    newest, steps_per_epoch = begun_with, state.steps_per_epoch
    saved_step = state.step if begun_with else None
    with noticing_interruption() as interruption:
        for event in events:
            refusal = _refusal(on_event, event)
            if isinstance(event, Replanned) and refusal is None:  # its step is not yet told
                continue
            is_due = False
            if isinstance(event, Stepped):
                state = replace(
                    state,
                    step=event.step,
                    epoch=event.step // steps_per_epoch + 1,
                    position=event.step % steps_per_epoch,
                    replanning=replanner.state if replanner else None,
                )
                is_last = event.step == event.num_steps
                is_due = policy.every is not None and (event.step % policy.every == 0 or is_last)
            stops, fails = any_rank(ranks, interruption.signal is not None, refusal is not None)
            if fails:
                together(ranks, partial(_raise, refusal), "the report of a step")
            if (is_due or stops) and saved_step != state.step:
                newest = save_checkpoint(policy.directory, state, save_state, policy.keep, ranks)
                saved_step = state.step
            if keep_best is not None and isinstance(event, Evaluated):
                best = best_of(event, state.best)
                if any_rank(ranks, best is not None)[0] and best is not None:
                    keep_best(best)
                    state = replace(state, best=best)
            if stops:
                return Outcome(state, interruption.signal or signal.SIGTERM, newest)
    return Outcome(state, None, newest)


def _refusal(on_event: Callable[[Event], object], event: Event) -> InputError | None:
    try:
        on_event(event)
    except InputError as error:
        return error
    return None


def _raise(error: InputError | None) -> None:
    if error is not None:
        raise error
