"""Tables of the report's part on a training by a plan."""

from collections.abc import Mapping
from pathlib import Path

from analysis.console.cells import Cell, Table, amount_cell, number_cell, text_cell
from analysis.console.formatting import percent, quantity
from analysis.finetuning.metrics_file import describe_epoch_0, epoch_rows, epoch_table
from analysis.finetuning.read_back import FineTuneRun
from analysis.names.schedule_names import ScheduleName
from analysis.planning.plan_summary import PlanSummary
from analysis.plots.style import run_title

WEIGHTS = {
    "model.safetensors": "all weights, in the layout of the model's own library",
    "adapter": "adapters and classifier, in peft's own format",
}


def cost_table(run: FineTuneRun, dense: FineTuneRun | None, summary: PlanSummary) -> Table:
    """What a step takes dense, by the plan, and took; `dense` is a training to compare with."""
    flops = float(run.steps["flops"].mean())
    rows = [
        (
            text_cell("FLOPs, trunk included"),
            amount_cell(summary.dense_flops, "FLOP"),
            amount_cell(summary.flops, "FLOP"),
            amount_cell(flops, "FLOP"),
            number_cell(flops / summary.dense_flops, percent),
        ),
        (
            text_cell("Bytes dispatched and combined"),
            amount_cell(summary.dense_exchange_bytes, "B"),
            amount_cell(summary.exchange_bytes, "B"),
            *_executed_bytes(run, summary),
        ),
        (
            text_cell("Step time, median"),
            number_cell(dense.median_step_s if dense else None, lambda v: quantity(v, "s")),
            number_cell(None, str),
            amount_cell(run.median_step_s, "s"),
            number_cell(run.median_step_s / dense.median_step_s if dense else None, percent),
        ),
    ]
    return Table(
        "A step: dense, by the plan's own schedule, and as it was executed (mean)",
        ("Per step", "Dense", "Plan", "Executed", "Executed, of dense"),
        (("", tuple(rows)),),
    )


def _executed_bytes(run: FineTuneRun, summary: PlanSummary) -> tuple[Cell, Cell]:
    """Nothing on one device; not known where schedules changed, which metrics do not hold."""
    if run.num_ranks == 1:
        moved: float | None = 0.0
    elif run.is_dense:
        moved = summary.dense_exchange_bytes
    elif run.replanned or run.settings.get("schedule") != ScheduleName.FIXED.value:
        moved = None
    else:
        moved = summary.exchange_bytes
    of_dense = None
    if moved is not None and summary.dense_exchange_bytes:
        of_dense = moved / summary.dense_exchange_bytes
    return number_cell(moved, lambda v: quantity(v, "B")), number_cell(of_dense, percent)


def trainings_table(runs: Mapping[str, FineTuneRun]) -> Table:
    """Loss, accuracy and cost of every epoch of every run."""
    said = dict.fromkeys(describe_epoch_0(run.records) for run in runs.values())
    return epoch_table(
        f"Epochs. {'; or: '.join(said)}",
        {
            run_title(name) if len(runs) > 1 else "": epoch_rows(run.records)
            for name, run in runs.items()
        },
    )


def times_table(runs: Mapping[str, FineTuneRun]) -> Table:
    """Where the seconds of a step went on the first rank."""
    rows = []
    for name, run in runs.items():
        steps = run.steps.iloc[1:] if len(run.steps) > 1 else run.steps
        rows.append(
            (
                text_cell(run_title(name)),
                *(
                    amount_cell(float(steps[column].median()), "s")
                    for column in ("step_s", "lanes_s", "rest_s", "exchange_s")
                ),
                amount_cell(float(run.steps["step_s"].sum()), "s"),
            )
        )
    return Table(
        "Where the seconds of a step went on the first rank, medians, measured",
        (
            "Training",
            "Step",
            "Lanes (subnets)",
            "Trunk and update",
            "Messages and waiting",
            "All steps",
        ),
        (("", tuple(rows)),),
    )


def replanned_table(run: FineTuneRun) -> Table | None:
    """Every change of operations with its reason; None where there was none."""
    groups = []
    for event in run.replanned:
        if event.shares:
            continue
        rows = tuple(
            (
                text_cell(change.device),
                number_cell(change.slowdown_before, lambda v: f"{v:.2f}"),
                number_cell(change.slowdown, lambda v: f"{v:.2f}"),
                _count_cell(change.num_full_before),
                _count_cell(change.num_full),
                _count_cell(change.num_forward_only_before),
                _count_cell(change.num_forward_only),
            )
            for change in event.changes
        )
        groups.append((f"After step {event.step}: {event.reason}", rows))
    if not groups:
        return None
    return Table(
        "Changes of the schedule while training",
        (
            "Device",
            "Slowdown, before",
            "Slowdown",
            "FULL, before",
            "FULL",
            "Forward only, before",
            "Forward only",
        ),
        tuple(groups),
    )


def moved_table(run: FineTuneRun) -> Table | None:
    """Every change of the samples that replicas run, with its reason; None where there was none."""
    groups = []
    for event in run.replanned:
        rows = tuple(
            (
                text_cell(" + ".join(share.devices)),
                _count_cell(share.num_samples_before),
                _count_cell(share.num_samples),
            )
            for share in event.shares
        )
        if rows:
            groups.append((f"After step {event.step}: {event.reason}", rows))
    if not groups:
        return None
    columns = ("Replica", "Samples of a step, before", "Samples of a step")
    return Table("Samples that moved between replicas while training", columns, tuple(groups))


def _count_cell(number: int | None) -> Cell:
    return number_cell(number, lambda v: f"{v:.0f}")


def file_table(folder: Path) -> Table | None:
    """Weights and checkpoints in the folder; None where there are none."""
    rows = []
    for name, what in WEIGHTS.items():
        path = folder / name
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        rows += [_file_row(file, folder, what) for file in files]
    for file in sorted((folder / "checkpoints").glob("step-*/model.safetensors")):
        rows.append(_file_row(file, folder, "checkpoint, to go on from with --resume"))
    if not rows:
        return None
    return Table(
        "Where the weights are, in this folder",
        ("File", "What it is", "Size"),
        (("", tuple(rows)),),
    )


def _file_row(file: Path, folder: Path, what: str) -> tuple[Cell, ...]:
    name = str(file.relative_to(folder))
    return text_cell(name), text_cell(what), amount_cell(float(file.stat().st_size), "B")
