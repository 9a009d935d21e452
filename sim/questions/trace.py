"""A predicted step as a trace file for Perfetto or chrome://tracing.

The format is the JSON object of Chrome's trace event format ("Trace Event Format", Google, 2016):
complete events (ph "X"), counters ("C") and metadata ("M"), times in microseconds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from d2ft_sched.costs.input_gradients import executed_schedule
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.lanes import LANES
from d2ft_sched.schedule.operations import runs_backward
from sim.network.exchange_time import link_loads
from sim.prediction import Phase, Prediction
from sim.questions.bounds import step_bounds

DEVICES, LINKS, CRITICAL_PATH, SUMS = 1, 2, 3, 4
"""Process ids of the rows."""

Event = dict[str, Any]


def trace(prediction: Prediction, plan: Plan | None = None) -> dict[str, Any]:
    """The content of a trace file.

    Rows: a thread per device; a thread per directed link that carries bytes, busy for
    as long as its bytes take at full bandwidth, and another for what it carries of sums of
    gradients; the critical path, each part named after what
    bounds it; a counter of the bytes per second that all messages together move.

    Args:
        prediction: of the step.
        plan: that was simulated; with it, lanes say how many operations they are.
    """
    events = [
        *_rows(DEVICES, "devices (predicted)", [d.name for d in prediction.cluster.devices]),
        *_computing(prediction, plan),
        *_moving(prediction, LINKS, "links (predicted)", is_sum=False),
        *_moving(prediction, SUMS, "links: sums of gradients (predicted)", is_sum=True),
        *_rows(CRITICAL_PATH, "critical path: bound by", ["critical path"]),
        *_critical(prediction),
    ]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "kind": "prediction, not a measurement",
            "calibrated": prediction.is_calibrated,
            "cluster": prediction.cluster.name,
            "step_s": prediction.step_s,
        },
    }


def save_trace(prediction: Prediction, path: Path, plan: Plan | None = None) -> None:
    """Write `trace` to a file, atomically."""
    write_text(path, json.dumps(trace(prediction, plan)) + "\n")


def _rows(process: int, title: str, threads: list[str]) -> Iterator[Event]:
    yield _metadata(process, 0, "process_name", name=title)
    yield _metadata(process, 0, "process_sort_index", sort_index=process)
    for thread, name in enumerate(threads):
        yield _metadata(process, thread, "thread_name", name=name)
        yield _metadata(process, thread, "thread_sort_index", sort_index=thread)


def _metadata(process: int, thread: int, kind: str, **args: Any) -> Event:
    return {"ph": "M", "pid": process, "tid": thread, "name": kind, "args": args}


def _complete(
    process: int, thread: int, name: str, category: str, start_s: float, seconds: float, args: Event
) -> Event:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "name": name,
        "cat": category,
        "ts": 1e6 * start_s,
        "dur": 1e6 * seconds,
        "args": args,
    }


def _where(phase: Phase) -> Event:
    block = {"block": phase.block} if phase.block >= 0 else {}
    return {"wave": phase.wave, "direction": phase.direction, **block}


def _computing(prediction: Prediction, plan: Plan | None) -> Iterator[Event]:
    for phase in prediction.phases:
        if phase.device_s is None:
            continue
        starts_s, _ = phase.device_interval_s()
        for device in np.flatnonzero(phase.device_s).tolist():
            yield _complete(
                DEVICES,
                device,
                phase.name,
                phase.direction,
                float(starts_s[device]),
                float(phase.device_s[device]),
                {**_where(phase), **(_operations(plan, phase, device) if plan else {})},
            )


def _operations(plan: Plan, phase: Phase, device: int) -> Event:
    """Numbers of operations by kind of a device's lanes in one phase."""
    if not phase.name.endswith("lanes"):
        return {}
    part = plan.parts[phase.replica]
    held = (plan.workload.partition.block == phase.block) & (
        np.array(part.placement.subnet_device) == device
    )
    schedule = executed_schedule(part.workload, part.schedule)
    chosen = schedule[np.ix_(held, part.waves[phase.wave])]
    run = [op for op in LANES if phase.direction == "forward" or runs_backward(np.array(op))]
    return {operation.name: int((chosen == operation).sum()) for operation in run}


def _moving(prediction: Prediction, process: int, title: str, is_sum: bool) -> Iterator[Event]:
    cluster = prediction.cluster
    phases = [p for p in prediction.phases if p.is_sum == is_sum and p.duration_s]
    matrices = [p.pair_bytes for p in phases if p.pair_bytes is not None]
    if not matrices:
        return
    used = np.flatnonzero(link_loads(cluster, np.sum(matrices, axis=0))).tolist()
    directed = cluster.links_directed
    thread = {link: row for row, link in enumerate(used)}
    yield from _rows(
        process,
        title,
        [f"{directed[k].source} -> {directed[k].target}" for k in used],
    )
    for phase in phases:
        if phase.pair_bytes is None:
            continue
        carried = link_loads(cluster, phase.pair_bytes)
        for link in np.flatnonzero(carried).tolist():
            yield _complete(
                process,
                thread[link],
                phase.name,
                phase.direction,
                phase.start_s,
                float(carried[link]) / directed[link].bandwidth_bytes_per_s,
                {**_where(phase), "bytes": float(carried[link])},
            )
        total = float(phase.pair_bytes.sum())
        for moment_s, rate in ((phase.start_s, total / phase.duration_s), (phase.end_s, 0.0)):
            yield {
                "ph": "C",
                "pid": process,
                "tid": 0,
                "name": "messages",
                "ts": 1e6 * moment_s,
                "args": {"bytes_per_s": rate},
            }


def _critical(prediction: Prediction) -> Iterator[Event]:
    for bound in step_bounds(prediction):
        names = bound.bottleneck.names(prediction.cluster)
        yield _complete(
            CRITICAL_PATH,
            0,
            ", ".join(names) or str(bound.bottleneck.kind),
            str(bound.bottleneck.kind),
            bound.start_s,
            bound.seconds,
            {**_where(bound.phase), "phase": bound.phase.name},
        )
