"""A simulation as tables for people."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from analysis.console.formatting import beside, three_digits
from analysis.console.output import amount, percent, print_columns, seconds
from analysis.planning.way_tables import names_text, samples_text
from analysis.planning.way_words import beside_dense
from analysis.simulating.change_of_setting import with_change
from analysis.simulating.simulation import FACTOR, Simulation
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.files.counted import counted
from sim.prediction import Prediction
from sim.questions.bounds import Bottleneck, ResourceKind
from sim.questions.cost import step_cost
from sim.questions.utilisation import KINDS_OF_WORK, device_utilisation, link_utilisation

MAX_ROWS = 12
"""Devices or links that are listed; the JSON has all."""
MAX_NAMES = 3
NEGLIGIBLE = 5e-4
"""Share of the step up to which a kind of work gets no column."""
JOULES_PER_WATT_HOUR = 3600
NUM_STEPS = 1000
"""Steps that price and energy are given for."""


def print_simulation(found: Simulation, before: Prediction | None = None) -> None:
    """All tables; `before` is the plan's step as it was, where the cluster has been changed."""
    _print_summary(found, before)
    _print_bounds(found)
    _print_references(found)
    _print_devices(found.planned)
    _print_links(found.planned)


def verdict(found: Simulation) -> str:
    """The plan beside the best dense way and fewer samples, in one line."""
    step_s, held = found.planned.step_s, found.held
    text = with_change(beside_dense(step_s, held), found.plan, step_s, held, found.change)
    if not found.planned.out_of_memory:
        return text
    full = ", ".join(device.device for device in found.planned.out_of_memory)
    return f"The plan does not fit the memory of {full}. {text}"


def heading(found: Simulation) -> str:
    """What was simulated, in one line."""
    plan = found.planned
    timed_by = "measured curves" if plan.is_calibrated else "rooflines, not calibrated"
    overlapped = "; waves overlapped" if plan.is_overlapped else ""
    return f"Prediction of one step on {plan.cluster.name} ({timed_by}{overlapped})"


def notes(found: Simulation) -> Iterator[str]:
    """Lines below the tables: what does not fit, and jitter."""
    for device in found.planned.out_of_memory:
        yield (
            f"OUT OF MEMORY: {device.device} needs {amount(device.needed_bytes, 'B')} and has "
            f"{amount(device.memory_bytes, 'B')}; {amount(device.shortfall_bytes, 'B')} are missing"
        )
    for name, times in found.jitter.items():
        yield (
            f"With jitter, {name}: median {seconds(times.p50_s)}, 90 % {seconds(times.p90_s)}, "
            f"99 % {seconds(times.p99_s)}; {three_digits(times.slowdown)}x the step without, over "
            f"{counted(times.num_steps, 'step')}"
        )
    if step_cost(found.planned).busy_energy_j is not None:
        yield (
            "Energy computing is power_w x busy time; a preset's power_w is the datasheet's limit, "
            "so that is an upper bound"
        )


def _print_summary(found: Simulation, before: Prediction | None) -> None:
    as_short = found.as_short and found.as_short.prediction
    if found.as_short and sum(found.as_short.way.samples) == found.plan.workload.samples.sum():
        as_short = None
    known = {
        "best dense": found.best_dense and found.best_dense.prediction,
        "fewer samples": found.fewer and found.fewer.prediction,
        "in steps as short": as_short,
        "before": before,
    }
    others = {name: other for name, other in known.items() if other}
    columns = ["", "plan", *(text for name in others for text in (name, "plan of it"))]
    rows = []
    for title, value, show in _metrics():
        now = value(found.planned)
        if now is None:
            continue
        row = [title, show(now)]
        for other in others.values():
            was = value(other)
            row += ["-", "-"] if was is None else [show(was), percent(now / was if was else None)]
        rows.append(row)
    print_columns(heading(found), columns, rows)


Metric = tuple[str, Callable[[Prediction], float | None], Callable[[float], str]]


def _metrics() -> list[Metric]:
    def cost(attribute: str, unit: float) -> Callable[[Prediction], float | None]:
        def value(prediction: Prediction) -> float | None:
            known = getattr(step_cost(prediction), attribute)
            return None if known is None else NUM_STEPS * known / unit

        return value

    def show_bytes(value: float) -> str:
        return amount(value, "B")

    def show_energy(value: float) -> str:
        return amount(value, "Wh")

    wh = JOULES_PER_WATT_HOUR
    return [
        ("step time", lambda p: p.step_s, seconds),
        ("waiting for messages", lambda p: p.exchange_s, seconds),
        ("compute", lambda p: p.flops, lambda v: amount(v, "FLOP")),
        ("computed besides, and masked", lambda p: p.wasted_flops, lambda v: amount(v, "FLOP")),
        ("bytes between devices", lambda p: p.exchange_bytes, show_bytes),
        ("largest peak memory", lambda p: float(p.peak_memory_bytes.max()), show_bytes),
        (f"price of {NUM_STEPS:,} steps", cost("price", 1.0), three_digits),
        (f"energy computing, {NUM_STEPS:,} steps", cost("busy_energy_j", wh), show_energy),
        (f"energy idle, {NUM_STEPS:,} steps", cost("idle_energy_j", wh), show_energy),
    ]


def _print_bounds(found: Simulation) -> None:
    if not found.sensitivities:
        return
    step_s = found.planned.step_s
    columns = ["", "time", "of step", f"step at {FACTOR:g}x", "gain", "at most"]
    if not found.planned.is_overlapped:
        columns.append("no gain past")
    print_columns(
        f"What the plan's step waits for, and what {FACTOR:g} times as good would bring",
        columns,
        [
            [
                resource_name(found.plan.cluster, s.bottleneck),
                seconds(s.bound_s),
                percent(s.bound_s / step_s),
                seconds(s.step_s),
                percent(1 - s.step_s / step_s),
                percent(1 - s.unlimited_step_s / step_s),
                "-" if np.isinf(s.last_saturation) else f"{three_digits(s.last_saturation)}x",
            ][: len(columns)]
            for s in found.sensitivities
        ],
    )


def resource_name(cluster: Cluster, bottleneck: Bottleneck) -> str:
    """Short words for a bottleneck: "compute: a, b", "bandwidth: a, b to switch"."""
    if bottleneck.kind == ResourceKind.LATENCY:
        return "latency and fair sharing"
    num_all = len(cluster.devices if bottleneck.kind == ResourceKind.DEVICE else cluster.links)
    what, things = (
        ("compute", "devices") if bottleneck.kind == ResourceKind.DEVICE else ("bandwidth", "links")
    )
    names = bottleneck.names(cluster)
    if len(names) == num_all > 1:
        return f"{what}: all {things}"
    if bottleneck.kind == ResourceKind.LINK:
        ends = [(cluster.links[k].source, cluster.links[k].target) for k in bottleneck.members]
        common = set(ends[0]).intersection(*ends[1:]) if len(ends) > 1 else set()
        if common:
            hub = common.pop()
            names = tuple(a if b == hub else b for a, b in ends)
            return f"{what}: {_listed(names)} to {hub}"
    return f"{what}: {_listed(names)}"


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: MAX_NAMES - 1])} and {len(names) - MAX_NAMES + 1} more"


def _print_references(found: Simulation) -> None:
    plan = found.planned
    memory = float(plan.peak_memory_bytes.max())
    print_columns(
        "Ways to do the dense step, naive placements last, and what the plan takes beside each",
        [
            "", "on", "samples", "step", "bytes", "peak memory", "fits",
            "plan: time", "bytes", "memory",
        ],
        [
            [
                f"naive: {way.name}" if way.is_naive else way.name,
                names_text(way.replicas),
                samples_text(way.samples),
                seconds(way.step_s),
                amount(way.exchange_bytes, "B"),
                amount(way.peak_memory_bytes, "B"),
                "no" if way.out_of_memory else "yes",
                beside(plan.step_s, way.step_s),
                beside(plan.exchange_bytes, way.exchange_bytes),
                beside(memory, way.peak_memory_bytes),
            ]
            for way in found.references
        ],
    )  # fmt: skip


def _print_devices(plan: Prediction) -> None:
    table = device_utilisation(plan)
    kinds = [k for k in KINDS_OF_WORK if table[f"{k}_s"].max() > NEGLIGIBLE * plan.step_s]
    shown = table
    if len(table) > MAX_ROWS:
        shown = table.sort_values("busy_s", ascending=False, kind="stable").head(MAX_ROWS)
    print_columns(
        "Devices under the plan: share of the step, and peak memory" + _of_all(shown, table),
        ["", "busy", *kinds, "idle", "memory", "of"],
        [
            [
                row["device"],
                percent(row["busy_fraction"]),
                *(percent(row[f"{kind}_s"] / plan.step_s) for kind in kinds),
                percent(row["idle_s"] / plan.step_s),
                amount(row["peak_memory_bytes"], "B"),
                amount(row["memory_bytes"], "B"),
            ]
            for row in shown.to_dict(orient="records")
        ],
    )


def _print_links(plan: Prediction) -> None:
    table = link_utilisation(plan)
    if table.empty:
        return
    shown = table.head(MAX_ROWS)
    print_columns(
        "Links under the plan: busy at full bandwidth" + _of_all(shown, table),
        ["", "bytes", "bandwidth", "busy", "of step"],
        [
            [
                row["link"],
                amount(row["bytes"], "B"),
                amount(row["bandwidth_bytes_per_s"], "B/s"),
                seconds(row["busy_s"]),
                percent(row["busy_fraction"]),
            ]
            for row in shown.to_dict(orient="records")
        ],
    )


def _of_all(shown: pd.DataFrame, table: pd.DataFrame) -> str:
    return "" if len(shown) == len(table) else f" (the busiest {len(shown)} of {len(table):,})"
