"""``d2ft finetune``: train for real under a plan's schedule, on this device."""

from pathlib import Path
from typing import Annotated

import typer

from analysis import options


def run(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan from 'd2ft plan'.")],
    data: options.Data = "mnist-subset",
    data_root: options.DataRoot = None,
    download: options.Download = False,
    num_train: options.NumTrain = None,
    num_test: options.NumTest = None,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    epochs: options.Epochs = 3,
    learning_rate: options.LearningRate = 5e-5,
    linear_probe: Annotated[
        bool,
        typer.Option(
            help="Fit the classifier on frozen features first.", rich_help_panel="Training"
        ),
    ] = True,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Ignore the schedule: every operation FULL, to compare."),
    ] = False,
    precision: Annotated[
        str, typer.Option(help="float32, or bf16 by autocast.", rich_help_panel="Training")
    ] = "float32",
    device: options.DeviceName = "auto",
    out: Annotated[Path, typer.Option(help="Folder for metrics and weights.")] = Path(
        "out/finetune"
    ),
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Fine-tune the plan's model with its schedule on one device, all subnets here.

    Writes metrics.jsonl, provenance.json and the weights in timm's own layout.
    """
    from analysis.finetuning import FineTuneRequest, run_finetune
    from analysis.options import default_weights
    from analysis.output import messages, percent, print_json, print_table, seconds
    from analysis.progress import TerminalProgress
    from d2ft_sched.plan_file import load_plan

    plan = load_plan(plan_file)
    result = run_finetune(
        FineTuneRequest(
            plan=plan,
            data=data,
            data_root=data_root,
            download=download,
            num_train=num_train,
            num_test=num_test,
            image_size=image_size,
            weights=default_weights(plan.workload.shape.name, weights, pretrained),
            pretrained=pretrained,
            num_epochs=epochs,
            learning_rate=learning_rate,
            linear_probe=linear_probe,
            dense=dense,
            precision=precision,
            device=device,
            seed=seed,
        ),
        out,
        TerminalProgress(messages),
    )
    if json:
        print_json(result)
        return
    print_table(
        f"{plan.workload.shape.name} on {result['data']}, {result['device']}",
        ["epoch", "train loss", "test top-1", "training took"],
        [
            [
                str(epoch["epoch"]),
                "-" if epoch["train_loss"] is None else f"{epoch['train_loss']:.4f}",
                percent(epoch["test_accuracy"]),
                "-" if epoch["train_s"] is None else seconds(epoch["train_s"]),
            ]
            for epoch in result["epochs"]
        ],
    )
    typer.echo(f"Wrote {out}")
