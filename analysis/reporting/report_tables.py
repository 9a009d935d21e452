"""Tables of the report on runs and predictions."""

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.console.cells import Cell, Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import (
    percent,
    points,
    quantity,
    sentence_start,
    signed_percent,
    signed_points,
)
from analysis.plots.device_workload import busy_seconds
from analysis.plots.style import run_title
from analysis.results.run_dir import Run
from analysis.results.run_records import StepPrediction
from analysis.results.savings import Pair, Saving, cluster_savings, device_savings


def sides_table(run: Run) -> Table:
    """The best dense way, fewer samples and the plan: where, how fast, how accurate."""
    training, epochs = run.measurement.training, run.measurement.training["plan"].epochs
    rows = []
    for name, predicted in run.prediction.cluster.items():
        here, measured = run.prediction.this_device[name], run.measurement.steps[name]
        rows.append(
            (
                text_cell(sentence_start(run_title(name))),
                text_cell(run.prediction.ways[name]),
                amount_cell(predicted.step_s, "s"),
                amount_cell(predicted.exchange_bytes, "B"),
                amount_cell(here.step_s, "s"),
                amount_cell(measured.step_s, "s"),
                amount_cell(measured.flops, "FLOP"),
                *(number_cell(e.test_accuracy, percent) for e in training[name].epochs),
            )
        )
    return Table(
        f"A step on {run.plan.cluster.name} and on one device ({run.measurement.device}), and the "
        f"accuracy of its training",
        (
            "What runs",
            "On which devices of the cluster",
            "Step there, predicted",
            "Bytes there, predicted",
            "Step on one device, predicted",
            "Step on one device, measured",
            "FLOPs, measured",
            *(f"Top-1 after epoch {epoch.epoch}" for epoch in epochs),
        ),
        (("", tuple(rows)),),
    )


def savings_table(run: Run) -> Table:
    """Dense, plan and saving; predicted, measured and error; this device, then the cluster."""
    columns = ["Per step"]
    for side, unit in (("Dense", ""), ("Plan", ""), ("Saving", " (points)")):
        columns.extend((f"{side}, predicted", f"{side}, measured", f"{side}, error{unit}"))
    name = run.plan.cluster.name
    return Table(
        "Dense fine-tuning and the plan: predicted, measured, error of the prediction",
        tuple(columns),
        (
            (
                f"One device, measured: {run.measurement.device}",
                tuple(_saving_row(s) for s in device_savings(run).values()),
            ),
            (
                f"Cluster {name}, predicted only; memory of the fullest device",
                tuple(_saving_row(s) for s in cluster_savings(run.prediction.cluster).values()),
            ),
        ),
    )


def _saving_row(saving: Saving) -> tuple[Cell, ...]:
    cells = [text_cell(saving.title)]
    for pair in (saving.dense, saving.plan):
        cells.extend(_pair_cells(pair, saving.unit))
    cells.append(number_cell(saving.predicted, percent))
    cells.append(number_cell(saving.measured, percent))
    cells.append(number_cell(saving.error, signed_points))
    return tuple(cells)


def _pair_cells(pair: Pair, unit: str) -> list[Cell]:
    return [
        amount_cell(pair.predicted, unit),
        number_cell(pair.measured, lambda value: quantity(value, unit)),
        number_cell(pair.error, signed_percent),
    ]


def accuracy_table(run: Run) -> Table:
    """What every run reached and what its training spent."""
    training = run.measurement.training
    dense = training["dense"]
    rows = []
    for name, result in training.items():
        simulated = run.prediction.cluster.get(name)
        rows.append(
            (
                text_cell(sentence_start(run_title(name))),
                number_cell(result.test_accuracy_before, percent),
                number_cell(result.test_accuracy, percent),
                number_cell(result.test_accuracy - dense.test_accuracy, points),
                Cell(str(len(result.epochs)), float(len(result.epochs))),
                amount_cell(result.flops, "FLOP"),
                amount_cell(result.train_s, "s"),
                number_cell(simulated.step_s if simulated else None, lambda v: quantity(v, "s")),
                Cell(str(result.seed), float(result.seed)),
            )
        )
    return Table(
        "Top-1 accuracy on the test images, and what training spent",
        (
            "Run",
            "Top-1 before",
            "Top-1 after",
            "Against dense",
            "Epochs",
            "Training FLOPs, measured",
            "Training time, measured",
            "Step on the cluster, predicted",
            "Seed",
        ),
        (("", tuple(rows)),),
    )


def workload_table(
    cluster: str, predictions: Mapping[str, StepPrediction], timelines: Mapping[str, pd.DataFrame]
) -> Table:
    """Busy and idle time and peak memory of every device of the cluster, before and after."""
    dense, plan = predictions["dense"], predictions["plan"]
    busy = {name: busy_seconds(table) for name, table in timelines.items()}
    rows = []
    for before, after in zip(dense.devices, plan.devices, strict=True):
        lanes = [
            float(table.filter(like="lanes").reindex([after.name]).to_numpy().sum())
            for table in (busy["dense"], busy["plan"])
        ]
        rows.append(
            (
                text_cell(after.name),
                amount_cell(before.busy_s, "s"),
                amount_cell(after.busy_s, "s"),
                number_cell(lanes[1] / lanes[0] if lanes[0] else None, percent),
                number_cell(before.idle_s / dense.step_s, percent),
                number_cell(after.idle_s / plan.step_s, percent),
                amount_cell(before.peak_memory_bytes, "B"),
                amount_cell(after.peak_memory_bytes, "B"),
                amount_cell(after.memory_bytes, "B"),
            )
        )
    return Table(
        f"Devices of {cluster} in one step, predicted",
        (
            "Device",
            "Busy, dense",
            "Busy, plan",
            "Lane time kept",
            "Idle, dense",
            "Idle, plan",
            "Peak memory, dense",
            "Peak memory, plan",
            "Memory, available",
        ),
        (("", tuple(rows)),),
    )


def link_table(cluster: str, predictions: Mapping[str, StepPrediction]) -> Table | None:
    """Bytes and utilisation of every link; None where nothing is exchanged."""
    dense, plan = (
        {link.link: link for link in predictions[name].links} for name in ("dense", "plan")
    )
    if not dense and not plan:
        return None
    rows = []
    for name in dict.fromkeys((*dense, *plan)):
        before, after = dense.get(name), plan.get(name)
        rows.append(
            (
                text_cell(name),
                amount_cell(before.bytes if before else 0.0, "B"),
                amount_cell(after.bytes if after else 0.0, "B"),
                number_cell(before.utilisation if before else 0.0, percent),
                number_cell(after.utilisation if after else 0.0, percent),
            )
        )
    return Table(
        f"Links of {cluster} in one step, predicted",
        ("Link", "Bytes, dense", "Bytes, plan", "Used, dense", "Used, plan"),
        (("", tuple(rows)),),
    )


def predicted_savings_table(cluster: str, predictions: Mapping[str, StepPrediction]) -> Table:
    """Dense, plan and saving of one step, predicted."""
    rows = tuple(
        (
            text_cell(saving.title),
            amount_cell(saving.dense.predicted, saving.unit),
            amount_cell(saving.plan.predicted, saving.unit),
            number_cell(saving.predicted, percent),
        )
        for saving in cluster_savings(predictions).values()
    )
    return Table(
        f"One step on {cluster}, predicted; memory of the fullest device",
        ("Per step", "Dense", "Plan", "Saving"),
        (("", rows),),
    )


def provenance_table(title: str, facts: Mapping[str, object]) -> Table:
    """Every fact that was recorded; one that has parts gets a row for each."""
    rows = tuple((text_cell(name), text_cell(str(value))) for name, value in _flat(facts))
    return Table(f"Where the results come from: {title}", ("Fact", "Value"), (("", rows),))


def _flat(facts: Mapping[str, object], start: str = "") -> Iterator[tuple[str, object]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
