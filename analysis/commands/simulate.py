"""``d2ft simulate``: predict a step of a plan on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from analysis import options


def run(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan from 'd2ft plan'.")],
    cluster_file: Annotated[
        Path | None,
        typer.Option("--cluster", help="Another cluster with as many devices as the plan's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the prediction as JSON to this file.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Also write the plan's timeline as CSV to this file.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Predict the step time, bytes and memory of a plan beside the dense run.

    A step is synchronous: in every block each device waits for the slowest. All times are
    predictions from the cluster file.
    """
    from analysis.output import amount, percent, print_json, print_table, seconds
    from d2ft_sched.atomic_write import write_text
    from d2ft_sched.cluster_file import load_cluster
    from d2ft_sched.errors import InputError
    from d2ft_sched.operations import Operation
    from d2ft_sched.plan_file import load_plan
    from d2ft_sched.provenance import provenance
    from d2ft_sched.schedule import uniform_schedule
    from sim.step import simulate_plan, simulate_step

    plan = load_plan(plan_file)
    cluster = load_cluster(cluster_file) if cluster_file else plan.cluster
    if len(cluster.devices) != len(plan.cluster.devices):
        raise InputError(
            f"{cluster_file}: has {len(cluster.devices)} devices; the plan {plan_file} is for "
            f"{len(plan.cluster.devices)}"
        )
    workload = plan.workload
    dense_schedule = uniform_schedule(
        workload.num_subnets, workload.num_microbatches, Operation.FULL
    )
    dense = simulate_step(plan.workload, cluster, plan.placement, dense_schedule, plan.num_waves)
    planned = simulate_plan(plan, cluster)
    result = {
        "cluster": cluster.name,
        "dense": dense.summary(),
        "plan": planned.summary(),
        "provenance": provenance(seed),
    }
    if out:
        import json as json_module

        write_text(out, json_module.dumps(result, indent=1) + "\n")
    if timeline:
        write_text(timeline, planned.timeline().to_csv(index=False))
    if json:
        print_json(result)
        return
    source = "measured curves" if planned.is_calibrated else "rooflines, not calibrated"
    print_table(
        f"Predicted step on {cluster.name} ({source})",
        ["", "dense", "plan", "of dense"],
        [
            [name, show(before), show(after), percent(after / before if before else None)]
            for name, before, after, show in (
                ("step time", dense.step_s, planned.step_s, seconds),
                ("waiting for messages", dense.exchange_s, planned.exchange_s, seconds),
                ("compute", dense.flops, planned.flops, lambda v: amount(v, "FLOP")),
                ("bytes", dense.exchange_bytes, planned.exchange_bytes, lambda v: amount(v, "B")),
                (
                    "largest peak memory",
                    dense.peak_memory_bytes.max(),
                    planned.peak_memory_bytes.max(),
                    lambda v: amount(v, "B"),
                ),
            )
        ],
    )
    print_table(
        "Devices",
        ["device", "busy, dense", "busy, plan", "idle, plan", "peak memory, plan"],
        [
            [
                device.name,
                seconds(dense.device_busy_s[d]),
                seconds(planned.device_busy_s[d]),
                percent(planned.device_idle_s[d] / planned.step_s),
                amount(planned.peak_memory_bytes[d], "B"),
            ]
            for d, device in enumerate(cluster.devices)
        ],
    )
    for d in (planned.peak_memory_bytes > [v.memory_bytes for v in cluster.devices]).nonzero()[0]:
        typer.echo(
            f"{cluster.devices[d].name} would run out of memory: it has "
            f"{amount(cluster.devices[d].memory_bytes, 'B')}."
        )
