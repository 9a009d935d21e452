"""``d2ft compare``: the same problem through several solvers."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.model_options import ModelOptions
from analysis.names.placement_names import PlacementName

COMPARED = (
    "dp", "lagrangian", "scip", "highs", "cp_sat", "two_stage", "greedy", "uniform", "random",
    "top_k", "frozen_prefix",
)  # fmt: skip
"""What is compared unless one says otherwise; with --sizes those that need a problem only."""
OF_CLUSTERS = (
    "model", "image_size", "num_tokens", "num_classes", "heads_per_subnet", "microbatch_size",
    "lora_rank", "lora_alpha", "precision", "base_precision", "scores",
    "budget_compute", "budget_comm", "per_device", "placement",
)  # fmt: skip
OF_SIZES = ("tightness", "plots")
"""Parameters of one of the two kinds of comparison only."""


@with_groups
def run(
    ctx: typer.Context,
    *,
    cluster_file: Annotated[
        Path | None,
        typer.Option("--cluster", help="Cluster file (YAML); not with --sizes."),
    ] = None,
    chosen: ModelOptions,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    scores: options.ScoresFile = None,
    budget_compute: options.BudgetCompute = 0.6,
    budget_comm: options.BudgetComm = 1.0,
    per_device: options.PerDevice = False,
    placement: Annotated[
        PlacementName, typer.Option(help="How subnets and owners are placed; see 'd2ft plan'.")
    ] = PlacementName.BALANCED,
    solvers: Annotated[
        str | None,
        typer.Option(help="Names to compare, separated by commas; default most."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Instead of a cluster: numbers of devices such as 10,100,1000, on instances made "
            "for this. Each solver runs in a process of its own.",
            rich_help_panel="Sizes",
        ),
    ] = None,
    tightness: Annotated[
        str,
        typer.Option(
            help="With --sizes: fractions of the dense compute that may be spent.",
            rich_help_panel="Sizes",
        ),
    ] = "0.6",
    plots: Annotated[
        Path | None,
        typer.Option(
            callback=options.folder_target,
            help="With --sizes: folder for a picture per tightness.",
            rich_help_panel="Sizes",
        ),
    ] = None,
    time_limit: options.TimeLimit = 60.0,
    out: Annotated[
        Path | None, typer.Option(callback=options.file_target, help="Also write the table as CSV.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare solvers: objective, proven gap, time, memory, balance and predicted step time."""
    from analysis.commands.parsing.axis_values import counts, numbers
    from analysis.comparing.compare_tables import (
        print_comparison,
        print_scaling,
        print_setups,
        table_rows,
    )
    from analysis.console.output import (
        outside_calibration,
        print_json,
        print_line,
        print_note,
        print_warnings,
    )
    from analysis.planning.plan_baselines import way_record
    from analysis.planning.way_words import way_text
    from d2ft_sched.cluster.cluster_file import MOST_DEVICES
    from d2ft_sched.errors import InputError
    from d2ft_sched.files.atomic_write import write_text
    from d2ft_sched.files.provenance import provenance
    from d2ft_sched.problem.budget import Budget
    from d2ft_sched.solvers.registry import required_options

    names = [name.strip() for name in solvers.split(",")] if solvers else list(COMPARED)
    if sizes is not None and not solvers:
        names = [name for name in names if not required_options(name)]
    if (cluster_file is None) == (sizes is None):
        raise InputError("compare needs either --cluster FILE or --sizes 10,100,...")
    if sizes is not None:
        options.refuse_given(ctx, OF_CLUSTERS, "--sizes makes its instances up")
    else:
        options.refuse_given(ctx, OF_SIZES, "it goes with --sizes")
    verdict, setups, way = None, None, None
    if sizes is not None:
        from analysis.comparing.scaling import run_cases, scaling_cases, scaling_table
        from analysis.plots.solver_scaling import save_scaling_plots

        cases = scaling_cases(
            names,
            counts("--sizes", sizes, MOST_DEVICES),
            numbers("--tightness", tightness),
            num_microbatches=microbatches,
            seed=seed,
            time_limit_s=time_limit or 60.0,
        )
        rows = []
        for row in run_cases(cases):
            rows.append(row)
            print_note(
                f"{row['solver']}, {row['num_devices']} devices, tightness {row['tightness']}: "
                f"{row['status']}"
            )
        table = scaling_table(rows)
        written = save_scaling_plots(table, plots) if plots else []
    else:
        from analysis.comparing.compare_setups import compare_setups, setups_way
        from analysis.comparing.comparison import compare_solvers, comparison_table
        from analysis.comparing.solvers_verdict import Verdict
        from analysis.planning.placing import place
        from analysis.planning.request import parse_heads, read_request

        assert cluster_file is not None
        request = read_request(
            **vars(chosen),
            heads_per_subnet=parse_heads(heads_per_subnet),
            microbatches=microbatches,
            microbatch_size=microbatch_size,
            cluster_file=cluster_file,
            scores_file=scores,
            budget=Budget(budget_compute, budget_comm, per_block=not per_device),
        )
        with outside_calibration() as warned:
            placed = place(placement, request.workload, request.cluster, 1).deployments[0]
            answers = compare_solvers(
                placed, request.scores, request.budget, names, seed=seed, time_limit_s=time_limit
            )
            verdict = Verdict.of(answers, seed)
            held = verdict.held if verdict else None
            table, written = comparison_table(request, answers, held), []
            if held and budget_comm < 1:
                way = setups_way(held.search)
            if way:
                setups = compare_setups(request, way, names, seed=seed, time_limit_s=time_limit)
        print_warnings(warned)
    if out:
        write_text(out, table.to_csv(index=False))
        written.append(out)
    if json:
        held_against = verdict.as_dict() if verdict else {}
        if setups is not None and way is not None:
            held_against |= {"setups": table_rows(setups), "setups_way": way_record(way)}
        print_json({"solvers": table_rows(table), **held_against, "provenance": provenance(seed)})
        return
    if verdict:
        print_line(verdict.text)
    if sizes is not None:
        print_scaling(table)
    else:
        print_comparison(table, f"{request.workload.shape.name} on {request.cluster.name}")
    if setups is not None and way is not None and len(setups):
        print_setups(setups, f"Which blocks train, gradients sent once: {way_text(way)}")
    for path in written:
        print_line(f"Wrote {path}")
