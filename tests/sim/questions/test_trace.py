"""Trace files: valid events, nothing twice at a time in a row, and the prediction's own totals."""

import json
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.deployment import deploy
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from sim.questions.trace import CRITICAL_PATH, DEVICES, LINKS, SUMS, save_trace, trace
from sim.questions.utilisation import link_utilisation
from sim.step import simulate_plan

NEEDED = {
    "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
    "M": {"name", "pid", "tid", "args"},
    "C": {"name", "pid", "tid", "ts", "args"},
}


def rows(events, process):
    """Complete events of each thread, by the thread's name."""
    names = {
        e["tid"]: e["args"]["name"]
        for e in events
        if e["name"] == "thread_name" and e["pid"] == process
    }
    found = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X" and event["pid"] == process:
            found[names[event["tid"]]].append(event)
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.booleans())
def test_events_are_valid_and_add_up(random_step, seed, overlap):
    step = random_step(seed).predicted(overlap)
    events = json.loads(json.dumps(trace(step), allow_nan=False))["traceEvents"]
    for event in events:
        assert NEEDED[event["ph"]] <= set(event)
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    for process in (DEVICES, LINKS, CRITICAL_PATH, SUMS):
        for row in rows(events, process).values():
            row.sort(key=lambda e: e["ts"])
            for before, after in pairwise(row):
                assert before["ts"] + before["dur"] <= after["ts"] + 1e-9 * 1e6 * step.step_s
            assert all(e["ts"] + e["dur"] <= 1e6 * step.step_s * (1 + 1e-9) for e in row)

    def busy_s(process):
        found = rows(events, process).items()
        return {name: 1e-6 * sum(e["dur"] for e in row) for name, row in found}

    devices = busy_s(DEVICES)
    assert list(devices) == [d.name for d in step.cluster.devices]
    np.testing.assert_allclose(list(devices.values()), step.device_busy_s, rtol=1e-9)
    table = link_utilisation(step).set_index("link")
    exchanges_s, sums_s = busy_s(LINKS), busy_s(SUMS)
    assert set(exchanges_s) | set(sums_s) == set(table.index)
    for name, row in table.iterrows():
        seconds = exchanges_s.get(name, 0.0) + sums_s.get(name, 0.0)
        assert seconds == pytest.approx(row["bytes"] / row["bandwidth_bytes_per_s"])
    assert sum(busy_s(CRITICAL_PATH).values()) == pytest.approx(step.step_s)
    carried = Counter()
    for process in (LINKS, SUMS):
        for name, row in rows(events, process).items():
            carried[name] += sum(e["args"]["bytes"] for e in row)
    assert dict(carried) == pytest.approx(table["bytes"].to_dict())


def test_the_counter_holds_all_bytes(random_step):
    step = random_step(1).predicted()
    moved = 0.0
    for process in (LINKS, SUMS):
        counted = sorted(
            (e for e in trace(step)["traceEvents"] if e["ph"] == "C" and e["pid"] == process),
            key=lambda e: e["ts"],
        )
        assert counted[-1]["args"]["bytes_per_s"] == 0
        moved += sum(
            1e-6 * (after["ts"] - before["ts"]) * before["args"]["bytes_per_s"]
            for before, after in pairwise(counted)
        )
    assert moved == pytest.approx(step.exchange_bytes)


def test_lanes_say_how_many_operations_they_are(random_step):
    step = random_step(9, num_devices=3)
    size = (step.workload.num_subnets, step.workload.num_microbatches)
    plan = make_plan(
        deploy(step.workload, step.cluster, step.placement, 2),
        uniform_scores(*size),
        Budget(compute=0.6),
    )
    counted = defaultdict(Counter)
    for events in rows(trace(simulate_plan(plan), plan)["traceEvents"], DEVICES).values():
        for event in events:
            if event["name"] == "mlp lanes":
                args = event["args"]
                for op in Operation:
                    counted[args["direction"]][op.name] += args.get(op.name, 0)
    chosen = {op.name: int((plan.schedule == op).sum()) for op in Operation}
    assert counted["forward"]["FULL"] == counted["backward"]["FULL"] == chosen["FULL"] > 0
    assert counted["forward"]["FORWARD_ONLY"] == chosen["FORWARD_ONLY"]
    assert counted["backward"]["FORWARD_ONLY"] == 0


def test_a_file_says_that_it_is_a_prediction(random_step, tmp_path):
    step = random_step(2).predicted()
    save_trace(step, tmp_path / "trace.json")
    content = json.loads((tmp_path / "trace.json").read_text())
    assert content == json.loads(json.dumps(trace(step)))
    assert content["otherData"]["kind"] == "prediction, not a measurement"
    assert content["otherData"]["step_s"] == step.step_s
    names = [e["args"]["name"] for e in content["traceEvents"] if e["name"] == "process_name"]
    assert names == [
        "devices (predicted)",
        "links (predicted)",
        "links: sums of gradients (predicted)",
        "critical path: bound by",
    ]
