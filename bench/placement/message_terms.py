"""Seconds of messages in the program of `place_mip`: exchanges, and the trunk's all-reduce.

`unit_s` are the seconds that are 1 in the program.
"""

import itertools
from typing import Any

import numpy as np

from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS
from d2ft_sched.costs.parameters import trained_trunk_parameters
from d2ft_sched.placement_search.dense_step import DenseStep


def exchange_term(
    program: Any,
    step: DenseStep,
    unit_s: float,
    b: int,
    w: int,
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> Any:
    """Seconds of all exchanges of a block in a wave."""
    all_bytes = float(step.workload.activation_bytes[step.waves[w]].sum())
    pairs = list(itertools.permutations(range(step.num_devices), 2))
    dispatch, combine = (program.new_num_var(0, np.inf, f"{n}_{b}_{w}") for n in ("out", "back"))
    if not pairs:
        return dispatch + combine
    latencies = [program.new_num_var(0, np.inf, f"latency_{b}_{w}_{j}") for j in range(2)]
    message = {}
    for o, d in pairs:
        message[o, d] = program.new_num_var(0, 1, f"message_{b}_{w}_{o}_{d}")
        program.add(message[o, d] >= share[w, o] - (1 - active[b, d]))
        for latency, delay in zip(
            latencies, (step.latency_s[o, d], step.latency_s[d, o]), strict=True
        ):
            if delay:
                program.add(latency >= float(delay) / unit_s * (owns[w, o] + active[b, d] - 1))
    for exchange, latency, transposed in (
        (dispatch, latencies[0], False),
        (combine, latencies[1], True),
    ):
        for link in _link_rows(step, pairs, transposed):
            program.add(
                exchange
                >= latency
                + sum(per_byte * all_bytes / unit_s * message[pair] for pair, per_byte in link)
            )
        program.add(exchange >= latency)
    return len(SUBLAYERS) * len(DIRECTIONS) * (dispatch + combine)


def _link_rows(
    step: DenseStep, pairs: list[tuple[int, int]], transposed: bool
) -> list[list[tuple[tuple[int, int], float]]]:
    """For every channel the (owner, holder) pairs that load it and their seconds per byte."""
    table = step.seconds_per_byte.toarray().reshape(-1, step.num_devices, step.num_devices)
    rows = []
    for channel in table:
        row = [
            ((o, d), float(channel[d, o] if transposed else channel[o, d]))
            for o, d in pairs
            if (channel[d, o] if transposed else channel[o, d])
        ]
        if row:
            rows.append(row)
    return rows


def all_reduce_term(
    program: Any, step: DenseStep, unit_s: float, owns: dict[tuple[int, int], Any]
) -> Any:
    """At least the ring's chunks over each owner's own links, with its shortest latency."""
    owner = _any_wave(program, step, owns)
    most = min(step.num_devices, step.workload.num_microbatches)
    number = [program.new_bool_var(f"owners_{q}") for q in range(1, most + 1)]
    program.add(sum(number) == 1)
    program.add(sum((q + 1) * x for q, x in enumerate(number)) == sum(owner))
    seconds = program.new_num_var(0, np.inf, "all_reduce")
    gradient_bytes = trained_trunk_parameters(step.workload) * step.workload.parameter_bytes
    bandwidth = step.cluster.device_bandwidth_bytes_per_s()[list(step.devices)]
    for q, chosen in enumerate(number, start=1):
        for d in range(step.num_devices) if q > 1 else ():
            others = np.delete(step.latency_s[d], d)
            ring_s = 2 * (q - 1) * float(gradient_bytes / q / bandwidth[d] + others.min())
            program.add(seconds >= ring_s / unit_s * (chosen + owner[d] - 1))
    return seconds


def _any_wave(program: Any, step: DenseStep, owns: dict[tuple[int, int], Any]) -> list[Any]:
    owner = []
    for d in range(step.num_devices):
        any_wave = program.new_bool_var(f"owner_{d}")
        for w in range(len(step.waves)):
            program.add(any_wave >= owns[w, d])
        owner.append(any_wave)
    return owner
