"""The report's part on a training by a plan: what it took, and what it reached."""

from pathlib import Path

import pandas as pd

from analysis.console.formatting import less_or_more, percent, points_within, quantity, saved
from analysis.finetuning.metrics_file import METRICS
from analysis.finetuning.metrics_records import EvaluatedRecord
from analysis.finetuning.read_back import FineTuneRun, load_finetune_run
from analysis.planning.plan_summary import PlanSummary, summarize
from analysis.plots.style import run_styles
from analysis.plots.training.step_seconds import step_times
from analysis.plots.training.training_progress import Progress, training_progress
from analysis.reporting.headline import Answer
from analysis.reporting.report_finetune_tables import (
    cost_table,
    file_table,
    moved_table,
    replanned_table,
    times_table,
    trainings_table,
)
from analysis.reporting.report_part import ACCURACY, SAVING, Part
from analysis.reporting.report_tables import provenance_table
from analysis.results.run_dir import PLAN
from analysis.results.savings import accuracy_interval, accuracy_range
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted

DENSE = "dense"
WIDE = 0.05
"""An interval of accuracy that is wider says how few samples there were."""
"""Folder in which a dense training to hold this one against may lie."""
_NO_DENSE = (
    f"No dense training to hold it against: 'd2ft finetune {PLAN} --dense --out RUN/{DENSE}', with "
    f"the other options as they were, adds one."
)
MAY_DIFFER = ("dense", "schedule", "linear_probe")
"""Settings of trainings that are compared; all others must agree."""


def finetune_part(folder: Path) -> Part | None:
    """The part on a folder that 'd2ft finetune' wrote; None for another folder.

    Raises:
        InputError: its files are damaged, or the dense training in its folder `DENSE` was another
            one.
    """
    if not (folder / METRICS).exists():
        return None
    run = load_finetune_run(folder)
    dense = _dense_beside(run)
    runs = {DENSE: run} if run.is_dense else {"plan": run}
    if dense is not None:
        runs = {DENSE: dense, **runs}
    summary = summarize(run.plan)
    shape, data = run.plan.workload.shape, run.settings.get("data", "its data")
    title = f"{shape.name} trained on {data}"
    return Part(
        "finetune",
        title,
        f"What did training {shape.name} on {data} take, "
        f"{'every operation FULL' if run.is_dense else 'by its plan'}, on {_where(run)}, and how "
        f"accurate is it?",
        tuple(a for a in (_saving(run, dense, summary), _accuracy(run, dense)) if a),
        provenance_table(title, {**run.provenance, "settings": run.settings}),
        {
            "is_dense": run.is_dense,
            "where": _where(run),
            "cost": cost_table(run, dense, summary),
            "epochs": trainings_table(runs),
            "times": times_table(runs),
            "replanned": replanned_table(run),
            "moved": moved_table(run),
            "scored": _scored(run),
            "files": file_table(folder),
            "done": run.num_done,
            "num_steps": run.num_steps,
            "resumed": [event.step for event in run.resumed],
        },
        {
            "training_progress": (
                lambda: training_progress({name: _progress(r) for name, r in runs.items()}),
                f"Training loss of every step and tests after epochs of {title}.",
            ),
            "training_steps": (
                lambda: step_times(
                    pd.concat([r.steps.assign(run=name) for name, r in runs.items()]),
                    f"{title}, {_where(run)}",
                    medians=True,
                    colours=[style[0] for style in run_styles(runs).values()],
                ),
                f"Measured time of every step of {title}; median of it "
                f"{quantity(run.median_step_s, 's')}.",
            ),
        },
    )


def _dense_beside(run: FineTuneRun) -> FineTuneRun | None:
    folder = run.folder / DENSE
    if run.is_dense or not (folder / METRICS).exists():
        return None
    dense = load_finetune_run(folder)
    if not dense.is_dense:
        raise InputError(f"{folder / METRICS}: was not trained with --dense")
    for name, value in run.settings.items():
        other = dense.settings.get(name)
        if name not in MAY_DIFFER and other != value:
            raise InputError(
                f"{folder / METRICS}: was trained with {name} {other}, the training above it with "
                f"{value}: they cannot be compared"
            )
    return dense


def _where(run: FineTuneRun) -> str:
    return (
        run.device
        if run.num_ranks == 1
        else f"{counted(run.num_ranks, 'rank')}, the first on {run.device}"
    )


def _spent_flops(run: FineTuneRun) -> float:
    """Of the steps done, and of scoring."""
    return float(run.steps["flops"].sum()) + (run.scored.flops if run.scored else 0.0)


def _saving(run: FineTuneRun, dense: FineTuneRun | None, summary: PlanSummary) -> Answer | None:
    if run.is_dense:
        return None
    num_steps = len(run.steps)
    spared = 1 - _spent_flops(run) / (num_steps * summary.dense_flops)
    took = (
        f"A step took {quantity(run.median_step_s, 's')} (median), all {num_steps:,} "
        f"{quantity(float(run.steps['step_s'].sum()), 's')}, measured on {_where(run)}."
    )
    facts = [took]
    if run.num_ranks > 1 and summary.dense_exchange_bytes:
        facts.append(
            f"Bytes exchanged by the plan: {less_or_more(1 - summary.communication_fraction)}."
        )
    flops = f"{less_or_more(spared)} FLOPs"
    over = f"over {counted(num_steps, 'step')}{', scoring included' if run.scored else ''}"
    if dense is None:
        return Answer(
            SAVING,
            saved(spared, "FLOPs"),
            f"executed {over}, against the same steps dense",
            tuple(facts),
        )
    faster = 1 - run.median_step_s / dense.median_step_s
    if dense.num_ranks != run.num_ranks or dense.device != run.device:
        facts.append(f"The dense training ran elsewhere: {_where(dense)}.")
    return Answer(
        SAVING,
        saved(faster, "step time"),
        f"measured on {_where(run)}: median step {quantity(run.median_step_s, 's')} by the plan, "
        f"{quantity(dense.median_step_s, 's')} dense",
        (f"Executed {over}: {flops}.", *facts),
    )


def _accuracy(run: FineTuneRun, dense: FineTuneRun | None) -> Answer | None:
    if not run.evaluations:
        return None
    last = run.evaluations[-1]
    if last.perplexity is not None:
        return _perplexity(run, dense)
    after = f"after {last.epoch:.4g} epoch{'' if last.epoch == 1 else 's'}"
    on = f"of {last.num_samples:,} test samples"
    facts = _how_far(run)
    if run.probed:
        facts.append(
            f"The classifier alone, fitted on frozen features: "
            f"{percent(run.probed.train_top1)} of the training samples."
        )
    facts.append("One seed: the spread over seeds is not known here.")
    if dense is not None and dense.evaluations and dense.evaluations[-1].epoch == last.epoch:
        other = dense.evaluations[-1]
        interval = accuracy_interval(last.top1, other.top1, last.num_samples)
        facts.insert(
            0,
            f"Chance alone moves such a difference by about ±{100 * interval:.1f} points (95 %).",
        )
        return Answer(
            ACCURACY,
            points_within(last.top1 - other.top1, interval),
            f"top-1 {on} {after}: plan {percent(last.top1)}, dense {percent(other.top1)}",
            tuple(facts),
        )
    low, high = accuracy_range(last.top1, last.num_samples)
    if not run.is_dense:
        facts.insert(0, _NO_DENSE)
    return Answer(
        ACCURACY,
        f"{percent(low)} to {percent(high)} top-1",
        f"{percent(last.top1)} {on} {after}; so few say no more than that (95 %)"
        if high - low > WIDE
        else f"{percent(last.top1)} {on} {after}; 95 % interval by their number",
        tuple(facts),
    )


def _perplexity(run: FineTuneRun, dense: FineTuneRun | None) -> Answer:
    """Of a training whose tokens are foretold."""
    first, last = run.evaluations[0], run.evaluations[-1]
    facts = [*_how_far(run), "One seed: the spread over seeds is not known here."]
    said = (
        [f"{_plain(first)} before training"]
        if first.epoch == 0 and len(run.evaluations) > 1
        else []
    )
    same = dense is not None and dense.evaluations and dense.evaluations[-1].epoch == last.epoch
    if dense is not None and same:
        said.append(f"{_plain(dense.evaluations[-1])} dense")
    elif not run.is_dense:
        facts.insert(0, _NO_DENSE)
    facts.append(
        f"Of these tokens {percent(last.top1)} are foretold right"
        + (f", {percent(dense.evaluations[-1].top1)} dense." if dense is not None and same else ".")
    )
    return Answer(
        ACCURACY,
        f"perplexity {_plain(last)}",
        f"of {counted(last.num_judged, 'token')} of held-out text after {last.epoch:.4g} "
        f"epoch{'' if last.epoch == 1 else 's'}{''.join(f'; {one}' for one in said)}",
        tuple(facts),
    )


def _plain(evaluation: EvaluatedRecord) -> str:
    """Its perplexity; beyond floats there is none."""
    return "-" if evaluation.perplexity is None else f"{evaluation.perplexity:.4g}"


def _how_far(run: FineTuneRun) -> list[str]:
    if run.num_done == run.num_steps:
        return []
    return [f"Training stopped after step {run.num_done:,} of {run.num_steps:,}."]


def _progress(run: FineTuneRun) -> Progress:
    evaluations = run.evaluations
    steps = run.steps
    done = [e.step for e in evaluations]
    return Progress(
        loss=steps.set_index("step")["loss"],
        top1=pd.Series([e.top1 for e in evaluations], index=done, dtype=float),
        num_test=evaluations[-1].num_judged if evaluations else 1,
        perplexity=pd.Series([e.perplexity for e in evaluations], index=done, dtype=float),
    )


def _scored(run: FineTuneRun) -> str | None:
    scored = run.scored
    if scored is None:
        return None
    training = float(run.steps["flops"].sum())
    return (
        f"{scored.num_minibatches:,} mini-batches were scored before training "
        f"({scored.forward_score} and {scored.backward_score}): {quantity(scored.seconds, 's')} "
        f"and {quantity(scored.flops, 'FLOP')}, {percent(scored.flops / training)} of what "
        f"training took; it is counted in the saving."
    )
