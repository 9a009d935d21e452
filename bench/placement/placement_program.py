"""The program of `place_mip`: the dense step of `DenseStep` in variables and linear constraints."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.linear_solver.python import model_builder

from bench.placement.memory_limit import limit_memory
from bench.placement.message_terms import all_reduce_term, exchange_term
from d2ft_sched import InputError
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.parameters import trained_trunk_parameters
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.placement_search.dense_step import LANE_KINDS, DenseStep

MAX_COUNTS = 4096
"""Combinations of subnets of different sizes that one device may hold of a block."""


@dataclass(frozen=True, eq=False)
class PlacementProgram:
    """The program and the variables that a placement is read from.

    Attributes:
        program: minimises the seconds of the dense step.
        besides_update: those of all but the update, which is what couples the blocks.
        held: by (kind of block, device, size), the number of subnets.
        owned: by (wave, samples, device), the number of micro-batches.
        block_kind: kind of each block, int ``[num_blocks]``.
        unit_s: seconds that are 1 in the program, so that its numbers are near 1.
    """

    program: Any
    besides_update: Any
    held: dict[tuple[int, int, int], Any]
    owned: dict[tuple[int, int, int], Any]
    block_kind: np.ndarray
    unit_s: float

    @property
    def blocks_are_alike(self) -> bool:
        """Whether blocks share variables, so that no two of a kind may differ."""
        return len(np.unique(self.block_kind)) < len(self.block_kind)


def build_program(step: DenseStep, every_device: bool, ample: bool) -> PlacementProgram:
    """Minimise the dense step.

    Args:
        step: all devices of the cluster.
        every_device: each must hold a subnet of every block.
        ample: whether memory need not be looked at; then equal blocks share their variables.

    Raises:
        InputError: more than `MAX_COUNTS` combinations.
    """
    program, unit_s = model_builder.Model(), _unit_s(step)
    kinds, block_kind = _block_kinds(step, ample)
    owned, owns, share = _add_owners(program, step)
    held: dict[tuple[int, int, int], Any] = {}
    active: dict[tuple[int, int], Any] = {}
    total = _trunk_terms(program, step, unit_s, owned)
    for b, wanted in enumerate(kinds):
        repeats = int((block_kind == b).sum())
        total = total + repeats * _add_block(
            program, step, unit_s, b, wanted, every_device, held, active, owns, share
        )
    total = total + all_reduce_term(program, step, unit_s, owns)
    if not ample:
        limit_memory(program, step, held, active, owns, share)
    program.minimize(total + _update_term(program, step, unit_s, held, block_kind, owns))
    return PlacementProgram(program, total, held, owned, block_kind, unit_s)


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


def _trunk_terms(
    program: Any, step: DenseStep, unit_s: float, owned: dict[tuple[int, int, int], Any]
) -> Any:
    pieces = trunk_pieces(step.workload)
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
            for k in range(len(slowest)):
                seconds = np.zeros(len(vectors))
                for kind, flops, bytes_moved in (piece.directions[k] for piece in pieces):
                    seconds += device.seconds(
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
    unit_s: float,
    b: int,
    wanted: np.ndarray,
    every_device: bool,
    held: dict[tuple[int, int, int], Any],
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> Any:
    """Variables of one kind of block; returns its seconds."""
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
        total = total + exchange_term(program, step, unit_s, b, w, active, owns, share)
    return total


def _update_term(
    program: Any,
    step: DenseStep,
    unit_s: float,
    held: dict[tuple[int, int, int], Any],
    block_kind: np.ndarray,
    owns: dict[tuple[int, int], Any],
) -> Any:
    """At least the bytes of the update over each device's memory."""
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
