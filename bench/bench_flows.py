"""Seconds to simulate flows, and the flow engine beside filling from zero at every event.

``python -m bench flows`` or, with the figures as JSON, ``python bench/bench_flows.py --out FILE``.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2ft_sched import Cluster, Device, provenance
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.topology import Cable, Network
from d2ft_sched.files.atomic_write import write_text
from sim import Flows, simulate_flows
from sim.network.fair_share import fill
from sim.network.flow_engine import run_flows
from sim.network.switch import switch_seconds

CABLE = Cable(bandwidth_bytes_per_s=1.25e9, latency_s=50e-6)
SEED = 0


@dataclass(frozen=True)
class Case:
    """A measurement: what it does, how often, and what it found."""

    name: str
    num_flows: int
    seconds: float
    makespan_s: float

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "flows_per_s": self.num_flows / self.seconds}


def _cluster(num_devices: int, network: Callable[[list[str]], Network]) -> Cluster:
    names = [f"d{i}" for i in range(num_devices)]
    devices = tuple(Device(n, 1e13, 24 * 10**9, 1e12) for n in names)
    built = network(names)
    return Cluster(built.topology, devices, built.links, built.switches, built.topology)


def _random_flows(num_devices: int, num_flows: int, *, last_start_s: float = 0.0) -> Flows:
    """Sizes of 0.1 to 100 MB between uniformly drawn devices."""
    rng = np.random.default_rng(SEED)
    source = rng.integers(0, num_devices, num_flows)
    return Flows(
        source,
        (source + rng.integers(1, num_devices, num_flows)) % num_devices,
        rng.uniform(1e5, 1e8, num_flows),
        rng.uniform(0.0, last_start_s, num_flows) if last_start_s else np.zeros(num_flows),
    )


def _simulated(name: str, cluster: Cluster, flows: Flows) -> Case:
    started = time.perf_counter()
    finish_s = simulate_flows(cluster, flows)
    seconds = time.perf_counter() - started
    return Case(name, len(flows.bytes), seconds, float(finish_s.max()))


def _oversubscribed_tree(num_devices: int) -> Cluster:
    return _cluster(num_devices, lambda names: topology.tree(names, 20, CABLE, 4.0))


def _star(num_devices: int) -> Cluster:
    return _cluster(num_devices, lambda names: topology.star(names, CABLE))


def _closed_form(num_devices: int, num_exchanges: int) -> Case:
    cluster = _star(num_devices)
    rng = np.random.default_rng(SEED)
    messages = 1e6 * (rng.random((num_exchanges, num_devices, num_devices)) < 0.5)
    messages[:, range(num_devices), range(num_devices)] = 0.0
    started = time.perf_counter()
    seconds = switch_seconds(cluster, messages)
    elapsed = time.perf_counter() - started
    name = f"closed form, {num_exchanges} exchanges on a switch of {num_devices}"
    return Case(name, int((messages > 0).sum()), elapsed, float(seconds.max()))


def _side_by_side(num_flows: int) -> tuple[float, float, float]:
    """Seconds of the engine, of filling from zero at every event, and their largest difference."""
    cluster = _oversubscribed_tree(200)
    flows = _random_flows(200, num_flows)
    pairs, pair = np.unique(flows.source * 200 + flows.destination, return_inverse=True)
    routes = cluster.routes(*np.divmod(pairs, 200))
    capacity = np.append(cluster.link_bandwidth_bytes_per_s, np.inf)
    table = np.full((4, len(pairs)), len(capacity) - 1)
    for column in range(len(pairs)):
        hops = routes.links[routes.offsets[column] : routes.offsets[column + 1]]
        table[: len(hops), column] = hops

    started = time.perf_counter()
    finish_s = run_flows(table, capacity, pair, flows.bytes, flows.start_s)
    engine_s = time.perf_counter() - started

    left, plain_finish_s, now = flows.bytes.copy(), np.zeros(num_flows), 0.0
    started = time.perf_counter()
    pending = np.arange(num_flows)
    while pending.size:
        in_use = table[:, pair[pending]]
        rate = fill(in_use, np.ones(len(pending)), capacity)[in_use].min(axis=0)
        step_s = (left[pending] / rate).min()
        left[pending] -= rate * step_s
        now += step_s
        done = left[pending] <= 1e-10 * flows.bytes[pending]
        plain_finish_s[pending[done]] = now
        pending = pending[~done]
    plain_s = time.perf_counter() - started
    return engine_s, plain_s, float(np.abs(finish_s / plain_finish_s - 1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON to this file")
    out = parser.parse_args().out

    tree, star = _oversubscribed_tree(200), _star(200)
    cases = []
    print(f"{'':66}{'flows':>9}{'seconds':>9}{'flows/s':>12}")
    for measure in (
        lambda: _simulated("tree 4:1 of 200", tree, _random_flows(200, 1_000)),
        lambda: _simulated("tree 4:1 of 200", tree, _random_flows(200, 10_000)),
        lambda: _simulated(
            "tree 4:1 of 200, starts spread over 5 s",
            tree,
            _random_flows(200, 10_000, last_start_s=5.0),
        ),
        lambda: _simulated("switch of 200", star, _random_flows(200, 10_000)),
        lambda: _simulated(
            "torus of 8 x 8",
            _cluster(64, lambda names: topology.torus(names, (8, 8), CABLE)),
            _random_flows(64, 5_000),
        ),
        lambda: _simulated(
            "switch of 256, equal all-to-all",
            _star(256),
            Flows.from_matrix(1e6 * (1 - np.eye(256))),
        ),
        lambda: _closed_form(16, 10_000),
        lambda: _closed_form(1024, 24),
    ):
        case = measure()
        cases.append(case)
        rate = case.num_flows / case.seconds
        print(f"{case.name:66}{case.num_flows:9,}{case.seconds:9.3f}{rate:12,.0f}", flush=True)

    engine_s, plain_s, difference = _side_by_side(1_000)
    print(
        f"1,000 flows over the tree: {engine_s:.3f} s, {plain_s / engine_s:.1f} times as fast as "
        f"filling from zero at every event ({plain_s:.3f} s); finish times differ by at most "
        f"{difference:.1e}"
    )
    if out:
        result = {
            "cases": [case.as_dict() for case in cases],
            "side_by_side": {
                "num_flows": 1_000,
                "engine_s": engine_s,
                "filling_from_zero_s": plain_s,
                "ratio": plain_s / engine_s,
                "largest_relative_difference": difference,
            },
            "provenance": provenance(SEED),
        }
        write_text(out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
