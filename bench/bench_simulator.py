"""Seconds to simulate steps: one of a large cluster, and thousands of what-if runs of a small one.

``python -m bench simulator`` or, with fewer what-if runs and the figures as JSON,
``python bench/bench_simulator.py --runs 500 --out FILE``.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2ft_sched import (
    Cluster,
    Device,
    ModelShape,
    Workload,
    deploy,
    partition_by_heads,
    provenance,
)
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.files.atomic_write import write_text
from sim import (
    Flows,
    Jitter,
    jittered_step_times,
    simulate_dense,
    simulate_flows,
    simulate_step,
)
from sim.network.exchange_time import exchange_bounds

CABLE = Cable(bandwidth_bytes_per_s=1.25e10, latency_s=5e-6)
SEED = 0
TARGET_LARGE_S, TARGET_WHAT_IF_S, NUM_WHAT_IF = 5.0, 60.0, 10_000


@dataclass(frozen=True)
class Case:
    """A measurement: what it does, seconds on the clock and of this process, and the step time
    that it found."""

    name: str
    seconds: float
    process_s: float
    step_s: float


class _Timer:
    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.process_time())

    def case(self, name: str, step_s: float) -> Case:
        wall_s, process_s = self._started
        return Case(name, time.perf_counter() - wall_s, time.process_time() - process_s, step_s)


def _devices(num_devices: int) -> tuple[Device, ...]:
    rates = np.random.default_rng(SEED).uniform(0.5, 2.0, num_devices) * 1e13
    return tuple(
        Device(f"d{i}", rate, 80 * 10**9, rate / 10, launch_s=1e-5)
        for i, rate in enumerate(rates.tolist())
    )


def _switch(num_devices: int) -> Cluster:
    devices = _devices(num_devices)
    network = topology.star([d.name for d in devices], CABLE)
    return Cluster("switch", devices, network.links, network.switches, network.topology)


def _workload(num_blocks: int, num_heads: int, num_microbatches: int) -> Workload:
    shape = ModelShape(
        "transformer",
        num_blocks=num_blocks,
        num_heads=num_heads,
        head_dim=64,
        width=1024,
        mlp_hidden=4 * 1024,
        num_tokens=197,
        embed_flops=10**8,
        classifier_flops=10**6,
        trunk_parameters=3 * 10**6,
    )
    return Workload(shape, partition_by_heads(shape, 1), (2,) * num_microbatches)


def _one_step(num_devices: int, num_blocks: int, num_heads: int, num_microbatches: int) -> Case:
    cluster = _switch(num_devices)
    workload = _workload(num_blocks, num_heads, num_microbatches)
    deployment = deploy(workload, cluster)
    shape = (workload.num_subnets, num_microbatches)
    schedule = np.random.default_rng(SEED).integers(0, 3, shape).astype(np.int8)
    timer = _Timer()
    step_s = simulate_step(deployment, schedule).step_s
    name = (
        f"{num_devices:,} devices, {num_blocks} blocks of {num_heads:,} subnets, "
        f"{num_microbatches:,} micro-batches"
    )
    return timer.case(name, step_s)


def _what_if(num_runs: int) -> Case:
    """Each run has bandwidth and computing scaled anew, and a schedule of its own."""
    cluster, workload = _switch(16), _workload(12, 16, 16)
    deployment = deploy(workload, cluster)
    rng = np.random.default_rng(SEED)
    total_s = 0.0
    timer = _Timer()
    for _ in range(num_runs):
        bandwidth, compute = rng.uniform(0.5, 2.0, 2)
        changed = replace(
            cluster,
            devices=tuple(d.scaled(compute=compute) for d in cluster.devices),
            links=tuple(
                replace(k, bandwidth_bytes_per_s=k.bandwidth_bytes_per_s * bandwidth)
                for k in cluster.links
            ),
        )
        schedule = rng.integers(0, 3, (workload.num_subnets, 16)).astype(np.int8)
        total_s += simulate_step(deployment.on(changed), schedule).step_s
    name = f"{num_runs:,} what-if runs of 16 devices, 12 blocks of 16 subnets, 16 micro-batches"
    return timer.case(name, total_s / num_runs)


def _jittered(num_steps: int) -> Case:
    cluster, workload = _switch(16), _workload(12, 16, 16)
    prediction = simulate_dense(deploy(workload, cluster))
    timer = _Timer()
    times = jittered_step_times(prediction, Jitter(0.05, 0.1, 0.01, 3.0), num_steps, SEED)
    name = f"{num_steps:,} steps of 16 devices under jitter"
    return timer.case(name, times.p50_s)


def _excess_over_bound() -> tuple[int, float]:
    """Messages of a large unequal exchange over a tree, and by how much fair sharing exceeds the
    lower bound."""
    devices = _devices(128)
    network = topology.tree([d.name for d in devices], 16, CABLE, 4.0)
    cluster = Cluster("tree", devices, network.links, network.switches, network.topology)
    pair_bytes = np.random.default_rng(SEED).binomial(4, 0.6, (128, 128)) * 1e6
    np.fill_diagonal(pair_bytes, 0.0)
    fair_s = simulate_flows(cluster, Flows.from_matrix(pair_bytes)).max()
    return int((pair_bytes > 0).sum()), float(fair_s / exchange_bounds(cluster, pair_bytes)[0] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=NUM_WHAT_IF, help="number of what-if runs")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON to this file")
    arguments = parser.parse_args()

    cases: list[Case] = []
    for measure, target_s in (
        (lambda: _one_step(1024, 24, 16, 1024), TARGET_LARGE_S),
        (lambda: _one_step(1024, 24, 1024, 1024), TARGET_LARGE_S),
        (lambda: _what_if(arguments.runs), TARGET_WHAT_IF_S * arguments.runs / NUM_WHAT_IF),
        (lambda: _jittered(10_000), None),
    ):
        case = measure()
        cases.append(case)
        verdict = "ok" if target_s is None or case.seconds < target_s else "MISSED"
        target = "" if target_s is None else f" (target below {target_s:g} s) {verdict}"
        print(
            f"{case.name:78}{case.seconds:8.2f} s, {case.process_s:.2f} s of it computing{target}",
            flush=True,
        )
    num_messages, excess = _excess_over_bound()
    print(
        f"{num_messages:,} unequal messages over a tree take {abs(excess):.2%} longer than their "
        f"lower bound"
    )
    if arguments.out:
        result: dict[str, Any] = {
            "cases": [vars(case) for case in cases],
            "excess_over_bound": {"num_messages": num_messages, "excess": excess},
            "provenance": provenance(SEED),
        }
        write_text(arguments.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
