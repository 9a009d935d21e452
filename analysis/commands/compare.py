"""``d2ft compare``: the same problem through several solvers."""

from pathlib import Path
from typing import Annotated

import typer

from analysis import options


def run(
    cluster_file: options.ClusterFile,
    model: options.Model = "vit_small_patch14_dinov2",
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = 10,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    scores: options.ScoresFile = None,
    budget_compute: options.BudgetCompute = 0.6,
    budget_comm: options.BudgetComm = 1.0,
    per_device: options.PerDevice = False,
    solvers: Annotated[
        str, typer.Option(help="Names to compare, separated by commas.")
    ] = "two_stage,dp,mip",
    time_limit: options.TimeLimit = 60.0,
    out: Annotated[Path | None, typer.Option(help="Also write the table as CSV.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare solvers: objective, proven gap, time, balance and predicted step time."""
    from analysis.comparison import compare_solvers, comparison_table
    from analysis.output import percent, print_json, print_table, seconds
    from analysis.request import read_request
    from d2ft_sched.atomic_write import write_text
    from d2ft_sched.capacity import Budget
    from d2ft_sched.placement import place_round_robin
    from d2ft_sched.provenance import provenance

    request = read_request(
        model=model,
        image_size=image_size,
        num_classes=num_classes,
        heads_per_subnet=heads_per_subnet,
        microbatches=microbatches,
        microbatch_size=microbatch_size,
        cluster_file=cluster_file,
        scores_file=scores,
        budget=Budget(budget_compute, budget_comm, per_block=not per_device),
    )
    placement = place_round_robin(
        request.workload.partition, microbatches, len(request.cluster.devices)
    )
    plans = compare_solvers(
        request, placement, solvers.split(","), seed=seed, time_limit_s=time_limit
    )
    table = comparison_table(plans)
    if out:
        write_text(out, table.to_csv(index=False))
    if json:
        rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
        print_json({"solvers": rows, "provenance": provenance(seed)})
        return
    print_table(
        f"{request.workload.shape.name} on {request.cluster.name}",
        ["solver", "status", "objective", "gap", "build", "solve", "predicted step", "balance CV"],
        [
            [
                str(row["solver"]),
                str(row["status"]),
                f"{row['objective']:.6g}",
                percent(row["gap"]),
                seconds(row["build_s"]),
                seconds(row["solve_s"]),
                seconds(row["predicted_step_s"]),
                f"{row['workload_cv']:.3f}",
            ]
            for row in table.to_dict(orient="records")
        ],
    )
    if out:
        typer.echo(f"Wrote {out}")
