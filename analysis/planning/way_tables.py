"""A plan on the best way as tables and plain values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.console.formatting import beside
from analysis.console.output import (
    amount,
    percent,
    print_columns,
    print_line,
    print_table,
    seconds,
)
from analysis.planning.plan_baselines import way_record, way_totals
from analysis.planning.plan_summary import plan_memory, summarize
from analysis.planning.way_request import PlannedOnWay
from analysis.planning.way_words import command, is_whole, sentence
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation
from sim.ways.table import WayRow

MOST_NAMES = 3
"""Of a row's names; the JSON has all."""
CHOSEN = ">"
"""Marks the way of a plan."""


def ways_dict(planned: PlannedOnWay, file: Path) -> dict[str, Any]:
    """The plan beside the best dense way and fewer samples, and all ways, as plain values."""
    found = planned.found
    return {
        "plan_step_s": found.step_s,
        "kept_score_fraction": found.kept_score,
        "samples": list(found.samples),
        "best_dense_step_s": found.best_dense.dense_step_s,
        "best_dense": way_record(found.best_dense),
        "fewer_samples_step_s": found.fewer.dense_step_s,
        "fewer_samples": way_record(found.fewer),
        "dense_step_lower_bound_s": found.lower_bound_s,
        "ways": [_row_dict(row) for row in found.table],
        "sentence": sentence(planned, file),
        "command": command(found.plan, file),
    }


def _row_dict(row: WayRow) -> dict[str, Any]:
    return {
        "name": str(row.name),
        "replicas": [list(names) for names in row.replicas],
        "samples": list(row.samples),
        "dense_step_s": row.dense_step_s,
        "plan_step_s": row.plan_step_s,
        "fits": row.fits,
        "chosen": row.chosen,
    }


def print_operations(plan: Plan, samples: Sequence[int]) -> None:
    """What each device of a plan holds and does.

    Args:
        plan: of any replicas.
        samples: that each replica runs.
    """
    summary = summarize(plan)
    replica_of = {d: r for r, replica in enumerate(plan.replicas) for d in replica.devices}
    several = len(plan.replicas) > 1
    done = [op for op in reversed(Operation) if summary.operations[:, op].any()]
    print_table(
        f"{plan.workload.shape.name} on {plan.cluster.name}: operations of a step",
        [
            "device",
            *(["replica"] if several else []),
            "samples",
            *(op.name for op in done),
            "of dense FLOPs",
        ],
        [
            [
                device.name,
                *([str(replica_of[d])] if several else []),
                str(samples[replica_of[d]]),
                *(str(summary.operations[d, op]) for op in done),
                percent(float(summary.device_flops_fraction[d])) if summary.num_subnets[d] else "-",
            ]
            for d, device in enumerate(plan.cluster.devices)
            if d in replica_of
        ],
    )
    unused = [v.name for d, v in enumerate(plan.cluster.devices) if d not in replica_of]
    if unused:
        print_line(f"Not used: {', '.join(unused)}")


def print_memory(plan: Plan) -> None:
    """What fills each device's memory at the plan's peak, and in which precision weights lie."""
    memory, frozen = plan_memory(plan)
    again = {d for replica in plan.replicas for d in replica.placement.recomputing}
    of_frozen = f"frozen weights in {plan.workload.frozen_precision}, what trains in float32"
    print_table(
        "Memory at the plan's peak (predicted)" + (f"; {of_frozen}" if plan.workload.lora else ""),
        [
            "device",
            *(["frozen"] if plan.workload.lora else []),
            "trained",
            "optimizer",
            "gradients",
            "activations",
            "workspace",
            "peak",
            "of",
            *(["forward"] if again else []),
        ],
        [
            [
                device.name,
                *([_byte(float(frozen[d]))] if plan.workload.lora else []),
                *(
                    _byte(float(of_purpose[d]))
                    for of_purpose in (
                        memory.parameters - frozen,
                        memory.optimizer_state,
                        memory.gradients,
                        memory.activations,
                        memory.workspace,
                        memory.total,
                    )
                ),
                _byte(float(device.memory_bytes)),
                *(["again" if d in again else "once"] if again else []),
            ]
            for d, device in enumerate(plan.cluster.devices)
        ],
    )


def print_step(planned: PlannedOnWay) -> None:
    """One step of the plan beside the best dense way and fewer samples."""
    found = planned.found
    own = summarize(found.plan).totals
    dense, fewer = way_totals(found.best_dense), way_totals(found.fewer)
    rows = [
        _beside_row(
            "step",
            seconds,
            found.step_s,
            found.best_dense.dense_step_s,
            found.fewer.dense_step_s,
        ),
        _beside_row("compute", _flop, own.flops, dense.flops, fewer.flops),
        _beside_row(
            "messages", _byte, own.message_bytes, dense.message_bytes, fewer.message_bytes
        ),
        _beside_row(
            "gradients", _byte, own.gradient_bytes, dense.gradient_bytes,
            fewer.gradient_bytes,
        ),
    ]  # fmt: skip
    fewer_of = "in as short a step" if planned.target else "of the compute that it spends"
    print_table(
        f"Predicted, beside the best dense way and fewer samples {fewer_of}",
        ["", "plan", "beside best dense", "beside fewer samples"],
        rows,
    )


def _beside_row(title: str, show: Any, own: float, dense: float, fewer: float) -> list[str]:
    return [title, show(own), *(_beside(show, own, other) for other in (dense, fewer))]


def _beside(show: Any, own: float, other: float) -> str:
    if not other:
        return "as much" if not own else f"more than {show(other)}"
    told = beside(own, other)
    return f"{told} {'as' if told.endswith('as much') else 'than'} {show(other)}"


def _flop(value: float) -> str:
    return amount(value, "FLOP")


def _byte(value: float) -> str:
    return amount(value, "B")


def print_ways(planned: PlannedOnWay) -> None:
    """The table of ways."""
    has_load = not is_whole(planned)
    print_columns(
        f"Ways, predicted: the dense step of each{', and with the load of the plan' * has_load}; "
        f"{CHOSEN} is chosen",
        [
            "",
            "on",
            "samples",
            "dense",
            *(["planned"] if has_load else []),
            "bytes",
            "memory",
        ],
        [
            [
                f"{CHOSEN if row.chosen else ' '} {row.name}",
                names_text(row.replicas),
                samples_text(row.samples),
                seconds(row.dense_step_s),
                *([_planned_text(row)] if has_load else []),
                _byte(row.plan_exchange_bytes),
                f"{_byte(row.peak_memory_bytes)}{'' if row.fits else ', too much'}",
            ]
            for row in planned.found.table
        ],
    )


def _planned_text(row: WayRow) -> str:
    return "-" if row.plan_step_s is None else seconds(row.plan_step_s)


def names_text(replicas: Sequence[Sequence[str]]) -> str:
    """Devices of replicas, short."""
    joined = ["+".join(_cut(names)) for names in replicas]
    return ", ".join(_cut(joined))


def _cut(names: Sequence[str]) -> list[str]:
    if len(names) <= MOST_NAMES:
        return list(names)
    return [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]


def samples_text(samples: Sequence[int]) -> str:
    """Samples of replicas, short."""
    few, many = min(samples), max(samples)
    return str(few) if few == many else f"{few}–{many}"
