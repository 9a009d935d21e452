"""The report's part on a plan that was neither run nor measured: a prediction, made anew."""

from pathlib import Path

from analysis.console.formatting import percent, quantity, saved
from analysis.console.output import outside_calibration
from analysis.planning.plan_baselines import baselines
from analysis.planning.way_words import beside_dense, chosen_by, way_text
from analysis.plots.device_workload import network_seconds, workload_per_device
from analysis.plots.schedule_heatmap import schedule_heatmap
from analysis.plots.timeline import block_gantt, step_gantt
from analysis.reporting.headline import Answer, changes
from analysis.reporting.report_demo import FILES, step_times
from analysis.reporting.report_part import SAVING, Part
from analysis.reporting.report_tables import (
    link_table,
    predicted_savings_table,
    provenance_table,
    workload_table,
)
from analysis.results.run_dir import PLAN
from analysis.results.run_records import StepPrediction
from analysis.results.savings import cluster_savings
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.plan_file import load_plan
from sim.step import simulate_dense, simulate_plan


def plan_part(folder: Path) -> Part | None:
    """The part on a folder with a plan and no results of its run; None for another folder.

    Raises:
        InputError: the plan file is no such file.
    """
    if not (folder / PLAN).exists() or any((folder / name).exists() for name in FILES):
        return None
    plan = load_plan(folder / PLAN)
    workload, cluster = plan.workload, plan.cluster
    with outside_calibration() as warned:
        planned = simulate_plan(plan)
        held = baselines(plan, planned.step_s)
        dense, way = (
            simulate_dense(plan),
            "dense placed as the plan is: no dense way fits the memory",
        )
        if held.best_dense is not None:
            dense = simulate_dense(held.best_dense)
            way = f"the best dense way, {way_text(held.best_dense)}"
        steps = {"dense": dense, "plan": planned}
    predictions = {
        name: StepPrediction.model_validate(step.summary()) for name, step in steps.items()
    }
    timelines = {name: step.timeline() for name, step in steps.items()}
    savings = cluster_savings(predictions)
    budget, shape = plan.budget, workload.shape
    block, times = shape.num_blocks // 2, step_times(predictions)
    title = f"{shape.name} on {cluster.name}"
    return Part(
        "plan",
        title,
        f"What would a step of {shape.name} ({counted(shape.num_blocks, 'block')} of "
        f"{counted(shape.num_heads, 'head')}) "
        f"take on cluster {cluster.name} ({counted(len(cluster.devices), 'device')}) by this "
        f"plan, made with {percent(budget.compute, 0)} of the dense run's compute and "
        f"{percent(budget.communication, 0)} of its communication by {chosen_by(plan)}?",
        (
            Answer(
                SAVING,
                saved(savings["step_s"].predicted or 0.0, "step time"),
                f"predicted for cluster {cluster.name}, against {way}",
                (
                    f"{beside_dense(planned.step_s, held)}.",
                    "Also predicted there: "
                    + changes(
                        ("FLOPs", savings["flops"].predicted),
                        ("bytes exchanged", savings["exchange_bytes"].predicted),
                        (
                            "peak memory of the fullest device",
                            savings["peak_memory_bytes"].predicted,
                        ),
                    )
                    + ".",
                ),
            ),
        ),
        provenance_table(title, plan.provenance),
        {
            "cluster": cluster.name,
            "savings": predicted_savings_table(cluster.name, predictions),
            "workload": workload_table(cluster.name, predictions, timelines),
            "links": link_table(cluster.name, predictions),
            "calibrated": predictions["plan"].calibrated,
            "warned": warned,
            "network": [
                quantity(network_seconds(timelines[name]), "s") for name in ("dense", "plan")
            ],
            "num_waves": max(replica.num_waves for replica in plan.replicas),
            "made_by": chosen_by(plan),
        },
        {
            "schedule": (
                lambda: schedule_heatmap(plan),
                "The operation of every subnet and micro-batch: FULL, FORWARD_ONLY or SHORTCUT.",
            ),
            "timeline": (
                lambda: step_gantt(timelines),
                f"What every device of {cluster.name} and its network do during one step: {times}.",
            ),
            "timeline_block": (
                lambda: block_gantt(timelines, block),
                f"The same for block {block} alone, forward and backward.",
            ),
            "workload": (
                lambda: workload_per_device(timelines),
                f"Busy and idle time of every device of {cluster.name} in one step: {times}.",
            ),
        },
    )
