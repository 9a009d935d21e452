"""``d2ft finetune``: train for real under a plan's schedule, on this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.commands import options
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.training_options import TrainingOptions
from analysis.names.augment_names import AugmentName
from analysis.names.bad_file_names import OnBadFileName
from analysis.names.log_names import LogName
from analysis.names.schedule_names import ScheduleName

if TYPE_CHECKING:
    from analysis.finetuning.follow import Outcome


@with_groups
def run(
    ctx: typer.Context,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan from 'd2ft plan'.")],
    data: options.Data = "mnist-subset",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    num_train: options.NumTrain = None,
    num_test: options.NumTest = None,
    on_bad_file: options.OnBadFile = OnBadFileName.FAIL,
    augment: options.Augment = AugmentName.NONE,
    workers: options.Workers = None,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed/--padded",
            help="Several texts to a sequence, each seeing only itself, or one, filled up; for "
            "decoders.",
            rich_help_panel="Data",
        ),
    ] = False,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Ignore the schedule: every operation FULL, to compare."),
    ] = False,
    schedule: Annotated[
        ScheduleName | None,
        typer.Option(
            help="fixed: the plan's own for every mini-batch. per-step: drawn anew in each step, "
            "which blocks rest and which samples are left out, or, within the budget of a plan by "
            "scores, which samples all subnets drop first; it needs no scores, and is the default "
            "where there is anything to draw. "
            "running: from scores that steps see in passing, so that scoring costs no pass. These "
            "two kept accuracy best in our studies, running closest to dense on unequal devices. "
            "per-minibatch: the paper's rule, as we read it: one for each from its scores, "
            "within the budget; scoring happens before training, with the whole model on the first "
            "rank, and metrics.jsonl says what it cost.",
            rich_help_panel="Schedule",
        ),
    ] = None,
    forward_score: Annotated[
        str,
        typer.Option(
            help="Score of running a subnet, for per-minibatch.", rich_help_panel="Schedule"
        ),
    ] = "weight_magnitude",
    backward_score: Annotated[
        str,
        typer.Option(
            help="Score of training a subnet, for per-minibatch.", rich_help_panel="Schedule"
        ),
    ] = "fisher_of_microbatches",
    replan_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Look at every rank's times each N steps, and give a device that got slower fewer "
            "operations, or its replica fewer samples; one that got faster more.",
            rich_help_panel="Schedule",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores table (CSV) to choose operations by when re-planning; without it the "
            "plan's own choice goes first.",
            rich_help_panel="Schedule",
        ),
    ] = None,
    device: options.DeviceName = "auto",
    out: Annotated[
        Path, typer.Option(callback=options.folder_target, help="Folder for metrics and weights.")
    ] = Path("out/finetune"),
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option(
            callback=options.folder_target,
            help="Folder of this training's checkpoints; default OUT/checkpoints.",
            rich_help_panel="Checkpoints",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps from one checkpoint to the next; without it only Ctrl-C and SIGTERM leave "
            "one.",
            rich_help_panel="Checkpoints",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|latest",
            help="Go on from a checkpoint, or from the newest whole one of a folder; the other "
            "options as they were, but --epochs may grow.",
            rich_help_panel="Checkpoints",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Newest checkpoints to keep; default all.", rich_help_panel="Checkpoints"
        ),
    ] = None,
    log: Annotated[
        LogName | None,
        typer.Option(
            help="tensorboard: event files in OUT/tensorboard, beside metrics.jsonl; for "
            "'tensorboard --logdir OUT'.",
        ),
    ] = None,
    keep_best: Annotated[
        bool,
        typer.Option(
            "--keep-best",
            help="Keep the weights of the best test in OUT/best, beside the last ones.",
            rich_help_panel="Checkpoints",
        ),
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
    *,
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

    if schedule is not ScheduleName.PER_MINIBATCH:
        options.refuse_given(
            ctx, ["forward_score", "backward_score"], "it goes with --schedule per-minibatch"
        )
    planned = load_plan(plan_file)
    plan = with_optimizer(planned, training.optimizer)
    first_note = ""
    if schedule is None:
        schedule = ScheduleName.FIXED
        if not dense and scores is None:
            default = default_schedule(plan, replans=replan_every is not None)
            schedule = default.name
            first_note = default.note and f"d2ft: {default.note}"
    notes = [n for n in (first_note, optimizer_note(planned, training.optimizer)) if n]
    checkpoint_dir = checkpoint_dir or out / "checkpoints"
    shared = options.option_values(
        ctx,
        ["plan_file", "data_root", "download", "workers", "scores", "device", "out", "log", "json"],
    )
    result = run_finetune(
        FineTuneRequest(
            plan=plan,
            data=data,
            data_root=data_root,
            download=download,
            num_train=num_train,
            num_test=num_test,
            on_bad_file=on_bad_file,
            augment=augment,
            num_workers=workers,
            packed=packed,
            image_size=image_size,
            weights=default_weights(plan.workload.shape.name, weights, pretrained),
            pretrained=pretrained,
            settings=training.settings(seed),
            dense=dense,
            device=device,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            resume=resume,
            keep=keep,
            keeps_best=keep_best,
            log=log,
            replan_every=replan_every,
            scores=scores,
            schedule=schedule,
            forward_score=forward_score,
            backward_score=backward_score,
            shared={**shared, "--checkpoint-dir": str(checkpoint_dir)},
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
