"""``d2ft simulate``: predict a step of a plan on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from d2ft_sched.files.counted import counted

WHAT_IF = "What if"
NOT_ALWAYS = "Devices that are not always equally fast"


def run(
    ctx: typer.Context,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan from 'd2ft plan'.")],
    cluster_file: Annotated[
        Path | None,
        typer.Option("--cluster", help="Another cluster with as many devices as the plan's."),
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="Overlap the plan's waves: messages of one under the computation of another.",
        ),
    ] = False,
    scale_bandwidth: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LINK=]FACTOR",
            help="Factor on the bandwidth of all links, of those of a device or switch, or of one "
            "(a:b=2). Repeatable, as all of these.",
            rich_help_panel=WHAT_IF,
        ),
    ] = None,
    scale_latency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LINK=]FACTOR", help="The same of the latency.", rich_help_panel=WHAT_IF
        ),
    ] = None,
    scale_compute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FACTOR",
            help="Factor on the speed of all devices or of one: FLOP/s and memory bandwidth.",
            rich_help_panel=WHAT_IF,
        ),
    ] = None,
    drop_device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Leave a device out and plan again for what is left, as the plan was made.",
            rich_help_panel=WHAT_IF,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="With --drop-device: the scores that the plan was made with; without them all "
            "subnets count alike.",
            rich_help_panel=WHAT_IF,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(min=0, help="Bottlenecks to try better ones of; 0 for none, which is faster."),
    ] = 5,
    jitter: Annotated[
        float | None,
        typer.Option(
            metavar="SIGMA",
            help="Spread of a lognormal factor on every device's time in every phase.",
            rich_help_panel=NOT_ALWAYS,
        ),
    ] = None,
    straggler: Annotated[
        str | None,
        typer.Option(
            metavar="PROB:FACTOR",
            help="Probability that a device is slow for a step, and how many times as slow.",
            rich_help_panel=NOT_ALWAYS,
        ),
    ] = None,
    num_steps: Annotated[
        int, typer.Option(min=1, help="Steps to draw.", rich_help_panel=NOT_ALWAYS)
    ] = 1000,
    trace: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target,
            help="Write a trace for Perfetto or chrome://tracing to this .json file.",
        ),
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target, help="Write the plan's timeline as CSV to this file."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=options.file_target, help="Write the prediction as JSON to this file."
        ),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Predict a plan's step beside the best dense way and fewer samples, and what bounds it.

    Time, bytes, memory and cost. A step is synchronous: in every block each device of a replica
    waits for the slowest. All times are predictions from the cluster file.
    """
    import json as json_module

    from analysis.console.output import (
        finite,
        outside_calibration,
        print_json,
        print_line,
        print_warnings,
    )
    from analysis.planning.request import read_cluster
    from analysis.simulating.changed_cluster import Changes, plan_again
    from analysis.simulating.simulate_tables import notes, print_simulation, verdict
    from analysis.simulating.simulation import prediction_dict, read_jitter, simulate
    from d2ft_sched.errors import InputError
    from d2ft_sched.files.atomic_write import write_text
    from d2ft_sched.files.provenance import provenance
    from d2ft_sched.plan.plan_file import load_plan
    from d2ft_sched.problem.starved import starved_text
    from sim.questions.trace import save_trace
    from sim.step import simulate_plan

    plan = load_plan(plan_file)
    if cluster_file:
        cluster = read_cluster(cluster_file, plan.workload.precision)
        if len(cluster.devices) != len(plan.cluster.devices):
            raise InputError(
                f"{cluster_file}: has {counted(len(cluster.devices), 'device')}; the plan "
                f"{plan_file} is for {len(plan.cluster.devices)}"
            )
        plan = plan.on(cluster)
    changes = Changes(
        scale_bandwidth or (), scale_latency or (), scale_compute or (), drop_device or ()
    )
    if scores and not drop_device:
        raise InputError(f"--scores {scores} goes with --drop-device, which makes a plan")
    drawn = read_jitter(jitter, straggler)
    if drawn is None:
        options.refuse_given(ctx, ["num_steps"], "steps differ only by --jitter or --straggler")
    with outside_calibration() as warned:
        changed = changes.apply(plan.cluster)
        before = simulate_plan(plan, overlap=overlap) if changes.describe() else None
        replanned = plan_again(plan, changed, scores, seed) if drop_device else None
        simulated = replanned.plan if replanned else plan.on(changed)
        found = simulate(
            simulated,
            overlap=overlap,
            jitter=drawn,
            num_steps=num_steps,
            seed=seed,
            max_bottlenecks=top,
        )
    if overlap and all(replica.num_waves == 1 for replica in plan.replicas):
        warned.append(
            "--overlap changes nothing for a plan of one wave; plan with --placement balanced "
            "--waves 2 or more"
        )
    starved = starved_text(simulated.schedule, simulated.workload.partition.block)
    if starved:
        warned.append(starved)
    result = {
        "what_if": list(changes.describe()),
        "verdict": verdict(found),
        "replanned": replanned.text if replanned else None,
        "before": prediction_dict(before) if before else None,
        **found.as_dict(),
        "warnings": warned,
        "provenance": provenance(seed),
    }
    written = []
    if out:
        write_text(out, json_module.dumps(finite(result), indent=1) + "\n")
        written.append(out)
    if timeline:
        write_text(timeline, found.planned.timeline().to_csv(index=False))
        written.append(timeline)
    if trace:
        save_trace(found.planned, trace, simulated)
        written.append(trace)
    print_warnings(warned)
    if json:
        print_json(result)
        return
    print_line(verdict(found))
    if changes.describe():
        print_line(f"What if: {'; '.join(changes.describe())}")
    if replanned:
        print_line(f"Planned again for what is left: {result['replanned']}")
        if not scores:
            print_line("No --scores were given: every subnet and micro-batch counts alike.")
    print_simulation(found, before)
    for line in (*notes(found), *(f"Wrote {path}" for path in written)):
        print_line(line)
