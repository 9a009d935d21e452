"""``d2ft sweep``: a grid of budgets, solvers, clusters and cuts, in parallel, resumable."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.model_options import ModelOptions
from analysis.names.placement_names import PlacementName
from d2ft_sched.files.counted import counted
from d2ft_sched.files.sizes import MOST_MICROBATCHES, MOST_SAMPLES

AXES = "Axes of the grid: values as 0.4,0.6,1 or from:to:step"


@with_groups
def run(
    ctx: typer.Context,
    *,
    clusters: Annotated[
        list[Path],
        typer.Option("--cluster", help="Cluster file (YAML). Repeatable.", rich_help_panel=AXES),
    ],
    budget_compute: Annotated[
        str,
        typer.Option(help="Fractions of the dense run's FLOPs.", rich_help_panel=AXES),
    ] = "0.2:1:0.2",
    budget_comm: Annotated[
        str, typer.Option(help="Fractions of its bytes exchanged.", rich_help_panel=AXES)
    ] = "1",
    budget_memory: Annotated[
        str, typer.Option(help="Fractions of its activations kept.", rich_help_panel=AXES)
    ] = "1",
    solvers: Annotated[
        str, typer.Option(help="Names separated by commas.", rich_help_panel=AXES)
    ] = "dp",
    microbatches: Annotated[
        str,
        typer.Option(
            help="Numbers of micro-batches that the mini-batch is cut into.", rich_help_panel=AXES
        ),
    ] = "5",
    heads_per_subnet: Annotated[
        list[str] | None,
        typer.Option(
            help="Heads of a subnet: one number (default 1), or the sizes of a block's groups such "
            "as 1,2,3. Repeatable.",
            rich_help_panel=AXES,
        ),
    ] = None,
    scale_bandwidth: Annotated[
        str, typer.Option(help="Factors on the bandwidth of all links.", rich_help_panel=AXES)
    ] = "1",
    scale_compute: Annotated[
        str, typer.Option(help="Factors on the speed of all devices.", rich_help_panel=AXES)
    ] = "1",
    chosen: ModelOptions,
    minibatch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_SAMPLES,
            help="Samples of the mini-batch, dealt to the micro-batches evenly.",
            rich_help_panel="Model and mini-batch",
        ),
    ] = 80,
    waves: options.Waves = 1,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Scores table (CSV); without it all subnets count alike. With several "
            "--heads-per-subnet it must be of subnets of one head, whose scores are added up.",
        ),
    ] = None,
    per_device: options.PerDevice = False,
    placement: Annotated[
        PlacementName, typer.Option(help="How subnets and owners are placed; see 'd2ft plan'.")
    ] = PlacementName.BALANCED,
    time_limit: options.TimeLimit = None,
    out: Annotated[
        Path, typer.Option(help="Folder of results; a second run goes on there.")
    ] = Path("out/sweep"),
    table_format: Annotated[
        str, typer.Option("--format", help="Of the table: csv or parquet.")
    ] = "csv",
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Also draw trade-off and step times.")
    ] = True,
    jobs: Annotated[
        int, typer.Option(min=0, help="Processes of this machine; 0 for one per core.")
    ] = 0,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Hand the points to the workers of this Dask scheduler, such as tcp://host:8786, "
            "where d2ft must be installed.",
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Plan and simulate every point of a grid, and show which plans are worth having.

    Writes sweep.csv (a row per point, units in the names of columns), provenance.json and pictures.
    What is done already is not done again: an interrupted or extended grid goes on. All times are
    predictions.
    """
    import signal

    from analysis.commands.parsing.axis_values import counts, names, numbers
    from analysis.console.interruption import raising_interruption
    from analysis.console.output import messages, print_json, print_line, print_note, print_warnings
    from analysis.console.progress import TerminalProgress
    from analysis.planning.model_shapes import model_shape
    from analysis.planning.request import read_cluster, read_frozen_bytes, read_lora
    from analysis.results.file_lock import alone_in
    from analysis.sweeping.console_tables import print_front, sweep_summary
    from analysis.sweeping.run_sweep import FORMATS, Sweep
    from analysis.sweeping.sweep_grid import Axes, Common, grid_points
    from d2ft_sched.model.workload import ELEMENT_BYTES
    from d2ft_sched.solvers.registry import solver_names

    (table_format,) = names("--format", table_format, FORMATS)[:1]
    axes = Axes(
        clusters=[read_cluster(path, chosen.precision) for path in clusters],
        bandwidth_scales=numbers("--scale-bandwidth", scale_bandwidth),
        compute_scales=numbers("--scale-compute", scale_compute),
        heads_per_subnet=list(dict.fromkeys(heads_per_subnet or ["1"])),
        num_microbatches=counts("--microbatches", microbatches, MOST_MICROBATCHES),
        compute=numbers("--budget-compute", budget_compute),
        communication=numbers("--budget-comm", budget_comm),
        memory=numbers("--budget-memory", budget_memory),
        solvers=names("--solvers", solvers, solver_names()),
    )
    lora = read_lora(chosen.lora_rank, chosen.lora_alpha)
    common = Common(
        shape=model_shape(
            chosen.model,
            image_size=chosen.image_size,
            num_tokens=chosen.num_tokens,
            num_classes=chosen.num_classes,
        ),
        minibatch_samples=minibatch_size,
        scores_file=scores,
        lora=lora,
        frozen_bytes=read_frozen_bytes(lora, chosen.base_precision, chosen.precision),
        element_bytes=ELEMENT_BYTES[chosen.precision],
        placement=placement,
        num_waves=waves,
        per_block=not per_device,
        seed=seed,
        time_limit_s=time_limit,
    )
    points = grid_points(axes, common)
    ctx.with_resource(alone_in(out, "--out"))
    sweep = Sweep(points, out, table_format)
    with raising_interruption() as stopped:
        try:
            with TerminalProgress(messages).stage("Plan and simulate") as tell:
                warnings = sweep.run(jobs=jobs, dask=dask, tell=tell)
        except KeyboardInterrupt:
            done = sweep.num_done
            print_note(
                f"Stopped: {done} of {counted(len(sweep.points), 'point')} are done; the same "
                f"command goes on."
            )
            raise typer.Exit(128 + (stopped.signal or signal.SIGINT)) from None
    table, written = sweep.save()
    if plots:
        from analysis.sweeping.sweep_plots import save_sweep_plots

        written += save_sweep_plots(table, out)
    print_warnings(warnings)
    if json:
        print_json(sweep_summary(table, out, written))
        return
    print_front(table)
    if not scores:
        print_line("No --scores were given: every subnet and micro-batch counts alike.")
    for path in written:
        print_line(f"Wrote {path}")
