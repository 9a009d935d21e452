"""The program of `place_mip`: the dense step of `DenseStep` in variables and linear constraints."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.linear_solver.python import model_builder

from d2ft_sched.compute_curve import WorkKind
from d2ft_sched.dense_step import LANE_KINDS, DenseStep
from d2ft_sched.errors import InputError
from d2ft_sched.exchange import DIRECTIONS, SUBLAYERS
from d2ft_sched.flops import trunk_flops
from d2ft_sched.layout import subnet_bytes
from d2ft_sched.memory import trained_trunk_parameters
from d2ft_sched.memory_traffic import trunk_bytes_moved
from d2ft_sched.operations import Operation
from d2ft_sched.workload import OPTIMIZER_STATES

GIGABYTE = 1e9
MAX_COUNTS = 4096
"""Combinations of subnets of different sizes that one device may hold of a block."""


@dataclass(frozen=True, eq=False)
class PlacementProgram:
    """The program and the variables that a placement is read from.

    Attributes:
        program: minimises the seconds of the dense step.
        held: by (kind of block, device, size), the number of subnets.
        owned: by (wave, samples, device), the number of micro-batches.
        block_kind: kind of each block, int ``[num_blocks]``.
        unit_s: seconds that are 1 in the program, so that its numbers are near 1.
    """

    program: Any
    held: dict[tuple[int, int, int], Any]
    owned: dict[tuple[int, int, int], Any]
    block_kind: np.ndarray
    unit_s: float


def build_program(step: DenseStep, every_device: bool, ample: bool) -> PlacementProgram:
    """Minimise the dense step.

    Args:
        step: all devices of the cluster.
        every_device: each must hold a subnet of every block.
        ample: whether memory need not be looked at; then equal blocks share their variables.

    Raises:
        InputError: more than `MAX_COUNTS` combinations.
    """
    program = model_builder.Model()
    kinds, block_kind = _block_kinds(step, ample)
    owned, owns, share = _add_owners(program, step)
    held: dict[tuple[int, int, int], Any] = {}
    active: dict[tuple[int, int], Any] = {}
    total = _trunk_terms(program, step, owned)
    for b, wanted in enumerate(kinds):
        repeats = int((block_kind == b).sum())
        total = total + repeats * _add_block(
            program, step, b, wanted, every_device, held, active, owns, share
        )
    total = total + _all_reduce_term(program, step, owns)
    total = total + _update_term(program, step, held, block_kind, owns)
    if not ample:
        _limit_memory(program, step, held, active, owns, share)
    program.minimize(total)
    return PlacementProgram(program, held, owned, block_kind, _unit_s(step))


def _block_kinds(step: DenseStep, ample: bool) -> tuple[np.ndarray, np.ndarray]:
    if not ample:
        return step.block_counts, np.arange(len(step.block_counts))
    kinds, block_kind = np.unique(step.block_counts, axis=0, return_inverse=True)
    return kinds, block_kind.ravel()


def _unit_s(step: DenseStep) -> float:
    """A hundredth of the lanes of all blocks on the fastest device."""
    return 0.01 * min(
        sum(float(step.lanes_s(d, wanted).sum()) for wanted in step.block_counts)
        for d in range(step.num_devices)
    )


def _add_owners(
    program: Any, step: DenseStep
) -> tuple[dict[tuple[int, int, int], Any], dict[tuple[int, int], Any], dict[tuple[int, int], Any]]:
    """Micro-batches, whether any, and the share of the messages that each device owns in each
    wave."""
    owned: dict[tuple[int, int, int], Any] = {}
    owns: dict[tuple[int, int], Any] = {}
    share: dict[tuple[int, int], Any] = {}
    devices = range(step.num_devices)
    for w, wave in enumerate(step.waves):
        samples, number = np.unique(step.workload.samples[wave], return_counts=True)
        num_samples = int(step.workload.samples[wave].sum())
        for d in devices:
            owns[w, d] = program.new_bool_var(f"owns_{w}_{d}")
            share[w, d] = 0
        for size, count in zip(samples.tolist(), number.tolist(), strict=True):
            for d in devices:
                owned[w, size, d] = program.new_int_var(0, count, f"owned_{w}_{size}_{d}")
                program.add(owned[w, size, d] <= count * owns[w, d])
                share[w, d] = share[w, d] + size / num_samples * owned[w, size, d]
            program.add(sum(owned[w, size, d] for d in devices) == count)
        for d in devices:
            program.add(owns[w, d] <= sum(owned[w, size, d] for size in samples.tolist()))
    return owned, owns, share


def _one_hot(program: Any, parts: list[Any], limits: list[int], name: str) -> dict[Any, Any]:
    """A binary for every combination of whole numbers up to `limits` that `parts` may take."""
    combinations = list(itertools.product(*(range(n + 1) for n in limits)))
    if len(combinations) > MAX_COUNTS:
        raise InputError(
            f"MIP placement: {len(combinations)} combinations of sizes for each device; it takes "
            f"at most {MAX_COUNTS}: use fewer sizes, or the fast search"
        )
    chosen = {v: program.new_bool_var(f"{name}_{v}") for v in combinations}
    program.add(sum(chosen.values()) == 1)
    for j, part in enumerate(parts):
        program.add(sum(v[j] * x for v, x in chosen.items() if v[j]) == part)
    return chosen


def _trunk_terms(program: Any, step: DenseStep, owned: dict[tuple[int, int, int], Any]) -> Any:
    unit_s = _unit_s(step)
    trunk, moved = trunk_flops(step.workload), trunk_bytes_moved(step.workload)
    total: Any = 0
    for w, wave in enumerate(step.waves):
        samples, first, number = np.unique(
            step.workload.samples[wave], return_index=True, return_counts=True
        )
        example = wave[first]
        slowest = [program.new_num_var(0, np.inf, f"trunk_{w}_{k}") for k in range(2)]
        for d in range(step.num_devices):
            parts = [owned[w, size, d] for size in samples.tolist()]
            chosen = _one_hot(program, parts, number.tolist(), f"trunk_{w}_{d}")
            device = step.cluster.devices[step.devices[d]]
            vectors = np.array(list(chosen))
            for k, (kind, flops, bytes_moved) in enumerate(
                (
                    (WorkKind.TRUNK_FORWARD, trunk.forward, moved.forward),
                    (WorkKind.TRUNK_BACKWARD, trunk.backward, moved.backward),
                )
            ):
                seconds = device.seconds(
                    kind, vectors @ flops[example], vectors @ bytes_moved[example]
                )
                program.add(
                    slowest[k]
                    >= sum(
                        float(s) / unit_s * x
                        for s, x in zip(seconds, chosen.values(), strict=True)
                        if s
                    )
                )
        total = total + slowest[0] + slowest[1]
    return total


def _add_block(
    program: Any,
    step: DenseStep,
    b: int,
    wanted: np.ndarray,
    every_device: bool,
    held: dict[tuple[int, int, int], Any],
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> Any:
    """Variables of one kind of block; returns its seconds."""
    unit_s = _unit_s(step)
    devices, num_waves = range(step.num_devices), len(step.waves)
    slowest = [
        [program.new_num_var(0, np.inf, f"lanes_{b}_{w}_{k}") for k in range(len(LANE_KINDS))]
        for w in range(num_waves)
    ]
    for d in devices:
        active[b, d] = program.new_bool_var(f"active_{b}_{d}")
        for s, number in enumerate(wanted.tolist()):
            held[b, d, s] = program.new_int_var(0, number, f"held_{b}_{d}_{s}")
            program.add(held[b, d, s] <= number * active[b, d])
        parts = [held[b, d, s] for s in range(len(wanted))]
        program.add(active[b, d] <= sum(parts))
        if every_device:
            program.add(active[b, d] == 1)
        chosen = _one_hot(program, parts, wanted.tolist(), f"count_{b}_{d}")
        seconds = np.array([step.lanes_s(d, np.array(v)) for v in chosen])
        for w in range(num_waves):
            for k in range(len(LANE_KINDS)):
                terms = zip(seconds[:, w, k], chosen.values(), strict=True)
                program.add(slowest[w][k] >= sum(float(t) / unit_s * x for t, x in terms if t))
    for s, number in enumerate(wanted.tolist()):
        program.add(sum(held[b, d, s] for d in devices) == number)
    total = sum(sum(kinds) for kinds in slowest)
    for w in range(num_waves):
        total = total + _exchange_term(program, step, b, w, active, owns, share)
    return total


def _exchange_term(
    program: Any,
    step: DenseStep,
    b: int,
    w: int,
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> Any:
    """Seconds of all exchanges of a block in a wave."""
    unit_s = _unit_s(step)
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


def _any_wave(program: Any, step: DenseStep, owns: dict[tuple[int, int], Any]) -> list[Any]:
    owner = []
    for d in range(step.num_devices):
        any_wave = program.new_bool_var(f"owner_{d}")
        for w in range(len(step.waves)):
            program.add(any_wave >= owns[w, d])
        owner.append(any_wave)
    return owner


def _all_reduce_term(program: Any, step: DenseStep, owns: dict[tuple[int, int], Any]) -> Any:
    """At least the ring's chunks over each owner's own links, with its shortest latency."""
    unit_s = _unit_s(step)
    owner = _any_wave(program, step, owns)
    most = min(step.num_devices, step.workload.num_microbatches)
    number = [program.new_bool_var(f"owners_{q}") for q in range(1, most + 1)]
    program.add(sum(number) == 1)
    program.add(sum((q + 1) * x for q, x in enumerate(number)) == sum(owner))
    seconds = program.new_num_var(0, np.inf, "all_reduce")
    gradient_bytes = trained_trunk_parameters(step.workload) * step.workload.element_bytes
    bandwidth = step.cluster.device_bandwidth_bytes_per_s()[list(step.devices)]
    for q, chosen in enumerate(number, start=1):
        for d in range(step.num_devices) if q > 1 else ():
            others = np.delete(step.latency_s[d], d)
            ring_s = 2 * (q - 1) * float(gradient_bytes / q / bandwidth[d] + others.min())
            program.add(seconds >= ring_s / unit_s * (chosen + owner[d] - 1))
    return seconds


def _update_term(
    program: Any,
    step: DenseStep,
    held: dict[tuple[int, int, int], Any],
    block_kind: np.ndarray,
    owns: dict[tuple[int, int], Any],
) -> Any:
    """At least the bytes of the update over each device's memory."""
    unit_s = _unit_s(step)
    seconds = program.new_num_var(0, np.inf, "update")
    trunk = trained_trunk_parameters(step.workload)
    for d in range(step.num_devices):
        model = step.cluster.devices[step.devices[d]]
        if model.is_calibrated(WorkKind.OPTIMIZER):
            continue
        per_s = step.update_bytes_per_parameter / model.memory_bandwidth_bytes_per_s
        parameters: Any = 0
        for (b, device, s), number in held.items():
            if device == d:
                repeats = int((block_kind == b).sum())
                parameters = parameters + repeats * int(step.size_parameters[s]) * number
        for w in range(len(step.waves)):
            program.add(seconds >= per_s / unit_s * (parameters + trunk * owns[w, d]))
    return seconds


def _limit_memory(
    program: Any,
    step: DenseStep,
    held: dict[tuple[int, int, int], Any],
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> None:
    """Memory at its most: everything that a device ever keeps, all at once."""
    workload = step.workload
    need = subnet_bytes(step, Operation.FULL)
    copies = 1 + OPTIMIZER_STATES[workload.optimizer]
    trunk_values = workload.shape.trunk_parameters + copies * trained_trunk_parameters(workload)
    trunk = float(trunk_values * workload.element_bytes) / GIGABYTE
    everything = float(workload.activation_bytes.sum()) / GIGABYTE
    hidden = 2 * float(workload.tokens.sum()) * workload.element_bytes / GIGABYTE
    num_blocks = workload.shape.num_blocks
    per_owned = 4 + 2 * int(workload.shape.layer_scale) + 2
    for d in range(step.num_devices):
        total: Any = 0
        for (_, device, s), number in held.items():
            if device == d:
                total = total + float(need[s]) / GIGABYTE * number
        for (_, device), is_active in active.items():
            if device == d:
                total = total + 2 * everything * is_active
        workspace = program.new_num_var(0, np.inf, f"workspace_{d}")
        example, _ = step.sizes
        for b in range(num_blocks):
            program.add(
                workspace
                >= sum(
                    hidden * float(workload.partition.hidden[example[s]]) * held[b, d, s]
                    for s in range(len(example))
                )
            )
        for w in range(len(step.waves)):
            owner_bytes = (per_owned * num_blocks + 8) * everything * share[w, d]
            owner_bytes = owner_bytes + trunk * owns[w, d]
            buffers = 2 * everything + step.num_devices * everything * share[w, d]
            program.add(
                total + workspace + owner_bytes + buffers
                <= step.cluster.devices[step.devices[d]].memory_bytes / GIGABYTE
            )
