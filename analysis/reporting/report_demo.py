"""The report's part on a whole job: plan, prediction, measurement, training."""

from collections.abc import Mapping
from pathlib import Path

from analysis.console.formatting import percent, points, quantity
from analysis.plots.device_workload import workload_per_device
from analysis.plots.save import Drawing
from analysis.plots.schedule_heatmap import schedule_heatmap
from analysis.plots.timeline import block_gantt, step_gantt
from analysis.plots.training.accuracy import accuracy_curves
from analysis.plots.validation import predicted_against_measured
from analysis.reporting.headline import answers, question, resting_text
from analysis.reporting.report_part import Part
from analysis.reporting.report_tables import (
    accuracy_table,
    link_table,
    provenance_table,
    savings_table,
    sides_table,
    workload_table,
)
from analysis.results.run_dir import MEASUREMENT, PREDICTION, Run, load_run
from analysis.results.run_records import StepPrediction
from analysis.results.savings import QUANTITIES, accuracy_interval, cluster_savings, device_pairs

FILES = (MEASUREMENT, PREDICTION)
"""Any of these in a folder says that it is of a whole job."""


def demo_part(folder: Path) -> Part | None:
    """The part on a folder that 'd2ft demo' wrote; None for another folder.

    Raises:
        InputError: as `analysis.results.run_dir.load_run`.
    """
    if not any((folder / name).exists() for name in FILES):
        return None
    run = load_run(folder)
    cluster, model = run.plan.cluster.name, run.plan.workload.shape.name
    dense, plan = run.prediction.cluster["dense"], run.prediction.cluster["plan"]
    measured = run.measurement
    training, num_test = measured.training, measured.data.num_test
    chance = accuracy_interval(
        training["dense"].test_accuracy, training["plan"].test_accuracy, num_test
    )
    title = f"{model} on {cluster}"
    return Part(
        "demo",
        title,
        question(run),
        answers(run),
        provenance_table(title, run.provenance),
        {
            "cluster": cluster,
            "device": measured.device,
            "savings": savings_table(run),
            "accuracy": accuracy_table(run),
            "workload": workload_table(cluster, run.prediction.cluster, run.timelines),
            "links": link_table(cluster, run.prediction.cluster),
            "calibrated": plan.calibrated,
            "exchanged": [quantity(p.exchange_bytes, "B") for p in (dense, plan)],
            "network": [quantity(p.exchange_s, "s") for p in (dense, plan)],
            "spread": [
                quantity(measured.steps[name].step_s_spread, "s") for name in ("dense", "plan")
            ],
            "chance": points(chance).lstrip("+"),
            "num_test": num_test,
            "ways": run.prediction.ways,
            "resting": resting_text(run.plan),
            "num_passes": max(replica.num_waves for replica in run.plan.replicas),
        },
        _drawings(run),
        sides_table(run),
    )


def step_times(predictions: Mapping[str, StepPrediction]) -> str:
    """Dense and planned step in words."""
    step = cluster_savings(predictions)["step_s"]
    return (
        f"{quantity(step.dense.predicted, 's')} dense, {quantity(step.plan.predicted, 's')} planned"
    )


def _drawings(run: Run) -> dict[str, Drawing]:
    cluster, training = run.plan.cluster.name, run.measurement.training
    times = step_times(run.prediction.cluster)
    block = run.plan.workload.shape.num_blocks // 2
    reached = ", ".join(f"{name} {percent(t.test_accuracy)}" for name, t in training.items())
    compared = [q for q in QUANTITIES if q[1] != "exchange_bytes"]
    return {
        "predicted_measured": (
            lambda: predicted_against_measured(
                [(title, unit, device_pairs(run, name)) for title, name, unit in compared]
            ),
            "Predicted against measured FLOPs, step time and peak memory of every run on one "
            "device, with the line of exact prediction.",
        ),
        "accuracy": (
            lambda: accuracy_curves(training, run.measurement.data.num_test),
            f"Test accuracy of every run against epochs and against training FLOPs. "
            f"After the last epoch: {reached}.",
        ),
        "schedule": (
            lambda: schedule_heatmap(run.plan),
            "The operation of every subnet and micro-batch: FULL, REST, FORWARD_ONLY or SHORTCUT.",
        ),
        "timeline": (
            lambda: step_gantt(run.timelines),
            f"What every device of {cluster} and its network do during one step: {times}.",
        ),
        "timeline_block": (
            lambda: block_gantt(run.timelines, block),
            f"The same for block {block} alone, forward and backward.",
        ),
        "workload": (
            lambda: workload_per_device(run.timelines),
            f"Busy and idle time of every device of {cluster} in one step: {times}.",
        ),
    }
