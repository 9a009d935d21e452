"""A fine-tuning run from a plan: metrics while it runs, checkpoints, and a result."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.console.output import outside_calibration
from analysis.console.progress import TerminalProgress
from analysis.console.step_line import StepLine
from analysis.finetuning.best_weights import BEST
from analysis.finetuning.best_weights import keep_best as save_best
from analysis.finetuning.finetune_job import FineTuneJob, prepare_finetune
from analysis.finetuning.finetune_request import FineTuneRequest
from analysis.finetuning.follow import CheckpointPolicy, Outcome, follow
from analysis.finetuning.metrics_file import (
    METRICS,
    MetricsFile,
    Record,
    describe_classes,
    describe_epoch_0,
    epoch_rows,
    records_until,
    solver_share,
    started,
)
from analysis.finetuning.read_back import check_same_training
from analysis.names.log_names import LogName
from analysis.results.file_lock import alone_in
from analysis.results.run_dir import PLAN, PROVENANCE
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.plan.plan_file import dump_plan, save_plan
from d2ft_sched.schedule.operations import Operation
from runtime.checkpoint.checkpoint import Found
from runtime.checkpoint.facts import MAY_GROW, BestEvaluation
from runtime.ranks.agreement import any_rank, check_same, together
from runtime.ranks.job import Ranks, ending_together, init_ranks
from runtime.steady_settings import steady_process
from runtime.torch_device import peak_bytes
from runtime.training.events import Event, Replanned, Stepped
from runtime.training.loop import train
from runtime.training.tensorboard_log import TensorBoardLog
from sim.step import simulate_step


@dataclass(frozen=True)
class FineTuneResult:
    """What came of it.

    Attributes:
        summary: data, device, one row per epoch, folder and provenance; None on ranks above 0.
        outcome: how it ended.
        notes: what a user should know, a line each.
    """

    summary: dict[str, Any] | None
    outcome: Outcome
    notes: tuple[str, ...]


def run_finetune(
    request: FineTuneRequest, out: Path, progress: TerminalProgress, notes: Sequence[str] = ()
) -> FineTuneResult:
    """Train; write ``metrics.jsonl``, the plan, checkpoints, ``provenance.json``, and what was
    trained.

    Under torchrun every rank calls this and holds its part of the plan; otherwise all subnets are
    here. SIGINT and SIGTERM let the running step end, and leave a checkpoint. The notes are
    shown before the first step, when all that may be refused has been looked at.

    Raises:
        InputError: the plan is for another model than can be built with these options, the data
            cannot be used, or the checkpoint cannot be gone on from.
        RankError: another rank died or hung.
    """
    steady_process()
    ranks = init_ranks(request.device)
    if ranks.rank > 0:
        progress = TerminalProgress(Console(quiet=True))
    with ending_together(ranks), ExitStack() as folders:
        together(ranks, lambda: check_same(ranks, request.shared), "the comparison of options")

        def enter() -> None:
            _check_folder(out, request)
            if ranks.rank == 0:
                folders.enter_context(alone_in(out, "--out"))
                folders.enter_context(alone_in(request.checkpoint_dir, "--checkpoint-dir"))

        together(ranks, enter, "the look at the folder")
        return _run(request, out, ranks, progress, notes)


def _check_folder(out: Path, request: FineTuneRequest) -> None:
    """Refuse a folder with a training that has ended, or with a plan that is another one and not of
    a training that this one replaces."""
    kept = out / PLAN
    if request.resume is None and (out / METRICS).exists() and (out / PROVENANCE).exists():
        raise InputError(
            f"{out}: has a training that has ended and would be replaced; give another --out, or "
            f"remove the folder"
        )
    if not kept.exists() or (out / METRICS).exists():
        return
    check_named(kept)
    try:
        text = kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    if text != dump_plan(request.plan):
        raise InputError(f"{kept}: is another plan and would be replaced; give another --out")


def _run(
    request: FineTuneRequest,
    out: Path,
    ranks: Ranks,
    progress: TerminalProgress,
    notes: Sequence[str],
) -> FineTuneResult:
    job = prepare_finetune(request, ranks, progress)
    facts = dict(job.state.provenance)
    is_first = ranks.rank == 0

    def open_metrics() -> MetricsFile | None:
        if not is_first:
            return None
        first = _first_records(out / METRICS, job)
        save_plan(request.plan, out / PLAN)
        opened = MetricsFile(out / METRICS, first)
        for event in job.before:
            opened.add(event)
        return opened

    def open_log() -> TensorBoardLog | None:
        if not is_first or request.log is not LogName.TENSORBOARD:
            return None
        return TensorBoardLog(out / request.log, job.state.step, predicted_s)

    metrics = together(ranks, open_metrics, "the opening of the file of metrics")
    predicted_s = _predicted_step_s(request)
    log = together(ranks, open_log, "the opening of the log")
    line = StepLine(predicted_s, request.plan.cluster.name)
    state = job.state
    if any_rank(ranks, is_first and not (out / BEST).is_dir())[0]:
        state = replace(state, best=None)
    for note in notes:
        progress.note(note)
    policy = CheckpointPolicy(request.checkpoint_dir, request.checkpoint_every, request.keep)
    with progress.stage("Fine-tune") as tell:

        def on_event(event: Event) -> None:
            memory_bytes = peak_bytes(ranks.device)
            if metrics is not None:
                metrics.add(event)
            if log is not None:
                log.add(event, memory_bytes)
            if isinstance(event, Replanned):
                progress.note(f"after step {event.step}: {event.reason}")
            if isinstance(event, Stepped):
                said = line.after(event.loss, event.num_samples, event.step_s, memory_bytes)
                tell(event.step, event.num_steps, said)
                if not isfinite(event.loss):
                    raise _diverged(event)

        def keep_best(best: BestEvaluation) -> None:
            save_best(out, best, request.plan, job.trainer.save_result, ranks)

        events = train(
            job.trainer,
            job.minibatches,
            request.plan.workload,
            job.schedules,
            job.settings,
            job.state.step if job.found else None,
            job.replanner,
            job.seen,
            [device for replica in request.plan.replicas for device in replica.placement.owner],
        )
        begun_with = job.found.path if job.found else None
        outcome = follow(
            events,
            job.save_state,
            state,
            policy,
            on_event,
            begun_with,
            ranks,
            job.replanner,
            keep_best if request.keep_best else None,
        )

    def save_result() -> None:
        job.trainer.save_result(out)
        if is_first:
            write_text(out / PROVENANCE, json.dumps(facts, indent=1) + "\n")

    if outcome.signal is None:
        together(ranks, save_result, "the writing of what was trained")
    if log is not None:
        log.close()
    if metrics is None:
        return FineTuneResult(None, outcome, ())
    metrics.close()
    rows = epoch_rows(metrics.records)
    summary = {
        **job.data.summary(),
        "device": facts["device"],
        "num_ranks": ranks.num_ranks,
        "epochs": rows,
        "by_class": describe_classes(job.data.class_names, rows),
        "epoch_0": describe_epoch_0(metrics.records),
        "best": asdict(outcome.state.best) if outcome.state.best else None,
        "solver_share_of_step": solver_share(metrics.records),
        "scoring": next((r for r in metrics.records if r["event"] == "scored"), None),
        "out": str(out),
        "provenance": facts,
    }
    return FineTuneResult(summary, outcome, job.notes)


def _predicted_step_s(request: FineTuneRequest) -> float:
    """Seconds of a step on the plan's own cluster."""
    plan = request.plan
    schedule = np.full_like(plan.schedule, Operation.FULL) if request.dense else plan.schedule
    with outside_calibration():
        return simulate_step(plan, schedule).step_s


def _diverged(event: Stepped) -> InputError:
    return InputError(
        f"the loss of step {event.step} is {event.loss}: the training has diverged at a learning "
        f"rate of {event.lr:.3g}; give it a smaller --learning-rate"
    )


def _first_records(path: Path, job: FineTuneJob) -> list[Record]:
    """What the file of metrics begins with: of a training that goes on, all until there.

    In a new folder they are those of the folder that the checkpoint is from, if they are there.

    Raises:
        InputError: the file is of another training than the one that goes on.
    """
    state, found = job.state, job.found
    facts = {"plan_sha256": state.plan_sha256, "num_ranks": state.num_ranks}
    began = started(settings=dict(state.settings), **facts, provenance=dict(state.provenance))
    if found is None:
        return [began]
    before = records_until(path, state.step) if path.exists() else _records_of(found)
    if before:
        check_same_training(path, before, found.state)
    resumed = {"event": "resumed", "step": state.step, "checkpoint": str(found.path), **facts}
    resumed |= {"settings": {name: state.settings[name] for name in sorted(MAY_GROW)}}
    return [*(before or [began]), {**resumed, "provenance": dict(state.provenance)}]


def _records_of(found: Found) -> list[Record]:
    """Of the training that wrote a checkpoint into its own folder, until then; none elsewhere."""
    path = found.path.parent.parent / METRICS
    try:
        records = records_until(path, found.state.step)
        check_same_training(path, records, found.state)
    except InputError:
        return []
    return records
