"""Following a training to its end, or to a signal: events reported, checkpoints written."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.console.interruption import noticing_interruption
from runtime.checkpoint.checkpoint import save_checkpoint
from runtime.checkpoint.facts import TrainingState
from runtime.ranks.agreement import ALONE, any_rank
from runtime.ranks.job import Ranks
from runtime.training.events import Event, Replanned, Stepped
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
) -> Outcome:
    """Run `events` of `runtime.training.loop.train`, on all ranks at once.

    SIGINT and SIGTERM on any rank let the running step end, and leave a checkpoint.

    Args:
        events: of the training.
        save_state: writes this rank's files of a checkpoint and names them.
        state: before the first event.
        policy: of checkpoints.
        on_event: told each event before its step is saved.
        begun_with: the checkpoint that `state` was read from.
        ranks: that train together.
        replanner: of this training, whose state is saved with it.
    """
    newest, steps_per_epoch = begun_with, state.steps_per_epoch
    saved_step = state.step if begun_with else None
    with noticing_interruption() as interruption:
        for event in events:
            on_event(event)
            if isinstance(event, Replanned):  # its step is done and not yet told
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
            stops = any_rank(ranks, interruption.signal is not None)
            if (is_due or stops) and saved_step != state.step:
                newest = save_checkpoint(policy.directory, state, save_state, policy.keep, ranks)
                saved_step = state.step
            if stops:
                return Outcome(state, interruption.signal or signal.SIGTERM, newest)
    return Outcome(state, None, newest)
