"""``d2ft plan``: choose an operation for every subnet and micro-batch."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.names.placement_names import PlacementName
from analysis.names.precision_names import PrecisionName


def run(
    cluster_file: options.ClusterFile,
    model: options.Model = "vit_small_patch14_dinov2",
    image_size: options.ImageSize = None,
    num_tokens: options.NumTokens = None,
    num_classes: options.PlannedClasses = None,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    waves: options.Waves = 1,
    lora_rank: options.LoraRank = None,
    lora_alpha: options.LoraAlpha = None,
    precision: options.Precision = PrecisionName.FLOAT32,
    scores: options.ScoresFile = None,
    budget_compute: options.BudgetCompute = 1.0,
    budget_comm: options.BudgetComm = 1.0,
    budget_memory: options.BudgetMemory = 1.0,
    per_device: options.PerDevice = False,
    target_step_time: Annotated[
        str | None,
        typer.Option(
            help="Instead of a budget: seconds of the predicted step (0.25, 250ms), or a fraction "
            "of the dense step (0.4x). Keeps the most score within it.",
            rich_help_panel="Budget",
        ),
    ] = None,
    aligned: Annotated[
        bool | None,
        typer.Option(
            "--aligned/--free",
            help="Let all subnets of a block on one device do the same with a micro-batch, so that "
            "bytes are exact; default where a communication budget asks for it.",
            rich_help_panel="Budget",
        ),
    ] = None,
    coverage: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Subnets of every block that must run each micro-batch, at least; default 1 where "
            "a plan would leave one none of a block, which trains on noise; 0 lets it.",
            rich_help_panel="Budget",
        ),
    ] = None,
    placement: Annotated[
        PlacementName,
        typer.Option(
            help="balanced: the fastest dense step, devices may stay empty; every-device: the "
            "fastest with all of them in every block; round-robin: equal shares in turn.",
            rich_help_panel="Placement",
        ),
    ] = PlacementName.BALANCED,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show what binds, what more would be worth, and where time goes."
        ),
    ] = False,
    solver: Annotated[
        str, typer.Option(help="dp (exact), two_stage (the paper's), mip (OR-Tools), ...")
    ] = "dp",
    time_limit: options.TimeLimit = None,
    out: Annotated[
        Path, typer.Option(callback=options.file_target, help="Where to write the plan.")
    ] = Path("plan.json"),
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Make a plan: which subnet does what with which micro-batch, within a budget or a step time.

    Capacities are levelled over the cluster: slow devices and links are cut first. FLOPs and bytes
    of the result are exact; 'd2ft simulate' predicts its time.
    """
    from analysis.console.output import (
        amount,
        messages,
        outside_calibration,
        percent,
        print_json,
        print_line,
        print_table,
        print_warnings,
        seconds,
    )
    from analysis.console.signs_of_life import signs_of_life
    from analysis.planning.plan_request import plan_request
    from analysis.planning.plan_summary import summarize, summary_dict
    from analysis.planning.request import parse_heads, read_request
    from d2ft_sched.plan.plan_file import save_plan
    from d2ft_sched.problem.budget import Budget
    from d2ft_sched.schedule.operations import Operation

    request = read_request(
        model=model,
        image_size=image_size,
        num_tokens=num_tokens,
        num_classes=num_classes,
        heads_per_subnet=parse_heads(heads_per_subnet),
        microbatches=microbatches,
        microbatch_size=microbatch_size,
        cluster_file=cluster_file,
        scores_file=scores,
        budget=Budget(
            budget_compute,
            budget_comm,
            per_block=not per_device,
            coverage=coverage or 0,
            memory=budget_memory,
        ),
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        precision=precision,
    )
    with outside_calibration() as warned, signs_of_life(messages) as stage:
        planned = plan_request(
            request,
            placement,
            target_step_time=target_step_time,
            aligned=aligned,
            solver=solver,
            num_waves=waves,
            seed=seed,
            time_limit_s=time_limit,
            may_starve=coverage is not None,
            stage=stage,
        )
    if planned.starved:
        warned.append(planned.starved)
    print_warnings(warned)
    plan, placed = planned.plan, planned.placed
    save_plan(plan, out)
    explanation = None
    if explain:
        from analysis.planning.explain import explain as explain_plan

        with outside_calibration():  # of what was said already
            explanation = explain_plan(plan, request.scores)
    if json:
        result = {"plan": str(out), **summary_dict(plan), "placement": placement.value}
        result["dense_step_s"] = placed.dense_step_s
        result["dense_step_lower_bound_s"] = placed.lower_bound_s
        if explanation:
            result["explanation"] = explanation.as_dict()
        print_json(result)
        return
    summary = summarize(plan)
    held = [plan.placement.subnet_device.count(d) for d in range(len(plan.cluster.devices))]
    print_table(
        f"{plan.workload.shape.name} on {plan.cluster.name}: operations of a mini-batch",
        ["device", "REST", "FULL", "FORWARD_ONLY", "SHORTCUT", "of dense FLOPs"],
        [
            [
                device.name,
                *(str(summary.operations[d, op]) for op in reversed(Operation)),
                percent(float(summary.device_flops_fraction[d])) if held[d] else "-",
            ]
            for d, device in enumerate(plan.cluster.devices)
        ],
    )
    print_table(
        "One step",
        ["", "dense, placed alike", "plan", "of dense"],
        [
            [
                "compute, trunk included",
                amount(summary.dense_flops, "FLOP"),
                amount(summary.flops, "FLOP"),
                percent(summary.compute_fraction),
            ],
            [
                "exchanged",
                amount(summary.dense_exchange_bytes, "B"),
                amount(summary.exchange_bytes, "B"),
                percent(summary.communication_fraction if summary.dense_exchange_bytes else None),
            ],
        ],
    )
    if explanation:
        from analysis.planning.explain_tables import print_explanation

        print_explanation(explanation)
    print_line(
        f"Placement {placement}: {placed.describe(len(plan.cluster.devices), plan.placement)}"
    )
    if len(set(plan.placement.subnet_device)) < len(plan.cluster.devices):
        print_line(
            "More devices were found to slow the dense step; --placement every-device uses all"
        )
    if plan.budget.coverage and not coverage:
        print_line(
            "Every micro-batch passes at least one subnet of every block, which the most score "
            "alone would not give it; --coverage 0 leaves that out"
        )
    if planned.target:
        print_line(f"Target step time: {planned.target}")
    record = plan.solver
    print_line(
        f"{record.name}: {record.status}, objective {record.objective:.6g}, gap "
        f"{percent(record.gap)}, solved in {seconds(record.solve_s)} ({record.method})"
    )
    if scores is None:
        print_line("No --scores were given: every subnet and micro-batch counts alike.")
    print_line(f"Wrote {out}; next: d2ft simulate {out}")
