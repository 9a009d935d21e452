"""``d2ft plan``: choose an operation for every subnet and micro-batch."""

from pathlib import Path
from typing import Annotated

import typer

from analysis.commands import options
from analysis.commands.parsing.grouped_options import with_groups
from analysis.commands.parsing.model_options import ModelOptions
from analysis.names.placement_names import PlacementName
from analysis.names.way_names import RestingName, WayName
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES

OF_PLACEMENTS = ("waves", "budget_memory", "per_device", "patterns", "coverage")
"""Parameters that only a plan of one replica, placed by name, knows."""


@with_groups
def run(
    ctx: typer.Context,
    *,
    cluster_file: options.ClusterFile,
    chosen: ModelOptions,
    heads_per_subnet: options.HeadsPerSubnet = "1",
    microbatches: options.Microbatches = 5,
    microbatch_size: options.MicrobatchSize = 16,
    waves: options.Waves = 1,
    optimizer: Annotated[
        str,
        typer.Option(
            help=f"That will train it, whose state takes memory and time: one of "
            f"{', '.join(OPTIMIZER_STATES)}.",
            rich_help_panel="Model and mini-batch",
        ),
    ] = "adamw",
    scores: options.ScoresFile = None,
    budget_compute: options.BudgetCompute = 1.0,
    budget_comm: options.BudgetComm = 1.0,
    budget_memory: options.BudgetMemory = 1.0,
    per_device: options.PerDevice = False,
    target_step_time: Annotated[
        str | None,
        typer.Option(
            help="Instead of a budget: seconds of the predicted step (0.25, 250ms), or a fraction "
            "of the best dense step (0.4x; with --placement of the dense step so placed). Keeps "
            "the most within it.",
            rich_help_panel="Budget",
        ),
    ] = None,
    patterns: Annotated[
        str | None,
        typer.Option(
            help="The most different rows of operations among the subnets of a block on one "
            "device: the fewer, the fewer pieces run. 1: all do the same with a micro-batch, so "
            "that bytes are exact; any; auto: what saves more of the step time than of the score. "
            "Default any, or 1 where a communication budget asks for it.",
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
    way: Annotated[
        WayName | None,
        typer.Option(
            help="The only kind of way to look at: the model on one device, on each of several, "
            "cut over several, or several models of which some are cut; default all.",
            rich_help_panel="Ways",
        ),
    ] = None,
    resting: Annotated[
        RestingName | None,
        typer.Option(
            help="Which heads (or blocks, where memory asks for it) rest in a step: drawn anew in "
            "each (default), or in turns. Adapters rest only where fewer samples keep no "
            "--budget-comm.",
            rich_help_panel="Ways",
        ),
    ] = None,
    placement: Annotated[
        PlacementName | None,
        typer.Option(
            help="Instead of a search for ways, one model cut over the devices. balanced: the "
            "fastest dense step, devices may stay empty; every-device: the fastest with all of "
            "them in every block; round-robin: equal shares in turn.",
            rich_help_panel="Placement",
        ),
    ] = None,
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
    """Make a plan: which devices take how many samples, and which subnet does what with them.

    Searches the ways to run the model on the cluster (one device, data parallel, cut, hybrids) for
    the one where a plan within the budget is fastest, and holds it against the best dense way and
    against fewer samples. FLOPs and bytes are exact; step times are predictions.
    """
    from analysis.console.output import (
        messages,
        outside_calibration,
        percent,
        print_json,
        print_line,
        print_warnings,
        seconds,
    )
    from analysis.console.signs_of_life import signs_of_life
    from analysis.planning.answers import AnswerByPlacement, AnswerByWay
    from analysis.planning.plan_request import parse_patterns, plan_request
    from analysis.planning.plan_summary import summary_dict
    from analysis.planning.request import parse_heads, read_request
    from analysis.planning.way_request import WAYS, plan_on_way
    from d2ft_sched.cluster.cluster_file import load_cluster
    from d2ft_sched.errors import InputError
    from d2ft_sched.plan.plan_file import save_plan
    from d2ft_sched.problem.budget import Budget

    if placement is None:
        options.refuse_given(ctx, OF_PLACEMENTS, "ways are searched; it goes with --placement")
    else:
        options.refuse_given(ctx, ["resting"], "with --placement nothing rests")
        if way not in (None, WayName.CUT):
            raise InputError(
                f"--way is {way} beside --placement, which cuts one model: leave one out"
            )
    if budget_compute == budget_comm == 1 and target_step_time is None:
        options.refuse_given(ctx, ["resting"], "within the whole budget nothing rests")
    request = read_request(
        **vars(chosen),
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
        optimizer=optimizer,
    )
    answer: AnswerByPlacement | AnswerByWay
    with outside_calibration() as warned, signs_of_life(messages) as stage:
        if placement is None:
            on_way = plan_on_way(
                request,
                way,
                target_step_time=target_step_time,
                resting=resting,
                solver=solver,
                seed=seed,
                time_limit_s=time_limit,
                stage=stage,
            )
            answer = AnswerByWay.of(
                on_way,
                out,
                request,
                way,
                lambda other: load_cluster(cluster_file, other),
                target_step_time=target_step_time,
                seed=seed,
            )
        else:
            placed = plan_request(
                request,
                placement,
                target_step_time=target_step_time,
                patterns=None if patterns is None else parse_patterns(patterns),
                solver=solver,
                num_waves=waves,
                seed=seed,
                time_limit_s=time_limit,
                may_starve=coverage is not None,
                stage=stage,
            )
            answer = AnswerByPlacement.of(placed, out, placement, has_coverage=bool(coverage))
    if answer.starved:
        warned.append(answer.starved)
    print_warnings(warned)
    plan = answer.plan
    save_plan(plan, out)
    explanation = None
    if explain:
        from analysis.planning.explain import explain as explain_plan
        from analysis.planning.explain_tables import print_explanation
        from sim.ways.redeal import redealt_scores

        with outside_calibration():  # of what was said already
            scored = redealt_scores(
                request.scores,
                request.workload.microbatch_samples,
                plan.workload.microbatch_samples,
            )
            explanation = explain_plan(plan, scored)
    if json:
        result = {"plan": str(out), **summary_dict(plan), **answer.as_dict()}
        if explanation:
            result["explanation"] = explanation.as_dict()
        print_json(result)
        return
    print_line(answer.verdict)
    answer.print_tables()
    if explanation:
        print_explanation(explanation)
    record = plan.solver
    for line in answer.notes():
        print_line(line)
    if record.name != WAYS:
        print_line(
            f"{record.name}: {record.status}, objective {record.objective:.6g}, gap "
            f"{percent(record.gap)}, solved in {seconds(record.solve_s)} ({record.method})"
        )
        if scores is None:
            print_line("No --scores were given: every subnet and micro-batch counts alike.")
    print_line(answer.last_line())
