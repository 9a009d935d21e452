"""``d2ft finetune``: train for real under a plan's schedule, on this device."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.commands import options
from analysis.commands.parsing.checkpoint_options import CheckpointOptions
from analysis.commands.parsing.data_options import ReadDataOptions
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.schedule_options import ScheduleOptions
from analysis.commands.parsing.training_options import TrainingOptions
from analysis.names.log_names import LogName
from analysis.names.schedule_names import ScheduleName

if TYPE_CHECKING:
    from analysis.finetuning.follow import Outcome


@with_groups
def run(
    ctx: typer.Context,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan from 'd2ft plan'.")],
    *,
    samples: ReadDataOptions,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Ignore the schedule: every operation FULL, to compare."),
    ] = False,
    choice: ScheduleOptions,
    device: options.DeviceName = "auto",
    out: Annotated[
        Path, typer.Option(callback=options.folder_target, help="Folder for metrics and weights.")
    ] = Path("out/finetune"),
    checkpoints: CheckpointOptions,
    log: Annotated[
        LogName | None,
        typer.Option(
            help="tensorboard: event files in OUT/tensorboard, beside metrics.jsonl; for "
            "'tensorboard --logdir OUT'.",
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    training: TrainingOptions,
) -> None:
    """Fine-tune the plan's model with its schedule.

    Alone, all subnets are on this device; under torchrun with a rank for each device of the plan,
    each rank holds its own: torchrun --no-python --nproc-per-node 3 d2ft finetune PLAN.

    Writes metrics.jsonl, the plan, checkpoints, provenance.json and the weights in the layout of
    timm or transformers; of a plan with --lora-rank the adapters, in peft's own format in
    OUT/adapter.
    Ctrl-C ends the running step and leaves a checkpoint; a second one ends at once.
    """
    from analysis.console.output import (
        messages,
        print_cells,
        print_json,
        print_line,
        print_note,
    )
    from analysis.console.progress import TerminalProgress
    from analysis.finetuning.finetune_request import FineTuneRequest, optimizer_note, with_optimizer
    from analysis.finetuning.finetune_schedules import default_schedule
    from analysis.finetuning.metrics_file import epoch_table
    from analysis.finetuning.run_from_plan import run_finetune
    from d2ft_sched.plan.plan_file import load_plan
    from runtime.models.build import default_weights

    if choice.schedule is not ScheduleName.PER_MINIBATCH:
        options.refuse_given(
            ctx, ["forward_score", "backward_score"], "it goes with --schedule per-minibatch"
        )
    planned = load_plan(plan_file)
    plan = with_optimizer(planned, training.optimizer)
    first_note = ""
    if choice.schedule is None:
        choice = replace(choice, schedule=ScheduleName.FIXED)
        if not dense and choice.scores is None:
            default = default_schedule(plan, replans=choice.replan_every is not None)
            choice = replace(choice, schedule=default.name)
            first_note = default.note and f"d2ft: {default.note}"
    notes = [n for n in (first_note, optimizer_note(planned, training.optimizer)) if n]
    if checkpoints.checkpoint_dir is None:
        checkpoints = replace(checkpoints, checkpoint_dir=out / "checkpoints")
    shared = options.option_values(
        ctx,
        ["plan_file", "data_root", "download", "workers", "scores", "device", "out", "log", "json"],
    )
    result = run_finetune(
        FineTuneRequest(
            plan=plan,
            **vars(samples),
            **vars(choice),
            **vars(checkpoints),
            image_size=image_size,
            weights=default_weights(plan.workload.shape.name, weights, pretrained),
            pretrained=pretrained,
            settings=training.settings(seed),
            dense=dense,
            device=device,
            log=log,
            shared={**shared, "--checkpoint-dir": str(checkpoints.checkpoint_dir)},
        ),
        out,
        TerminalProgress(messages),
        notes,
    )
    for note in result.notes:
        print_note(f"d2ft: {note}")
    if result.outcome.signal:
        if result.summary is not None:
            print_note(f"d2ft: {_how_it_stopped(result.outcome)}")
        raise typer.Exit(128 + result.outcome.signal)
    summary = result.summary
    if summary is None:
        return
    if json:
        print_json(summary)
        return
    title = f"{plan.workload.shape.name} on {summary['data']}, {summary['device']}"
    print_cells(epoch_table(title, {"": summary["epochs"]}))
    print_line(summary["epoch_0"])
    for line in (summary["by_class"], _best(summary, out)):
        if line:
            print_line(line)
    print_line(f"Wrote {out}")


def _best(summary: dict[str, Any], out: Path) -> str | None:
    best = summary["best"]
    return best and f"Best after step {best['step']}, in {out / 'best'}"


def _how_it_stopped(outcome: "Outcome") -> str:
    assert outcome.signal is not None
    return (
        f"stopped by {outcome.signal.name} after step {outcome.state.step} of "
        f"{outcome.state.num_steps}; checkpoint {outcome.checkpoint}; go on with --resume latest"
    )
