"""Placement on unequal devices and links: a fast search with a proven bound.

What is minimised is the dense step: in every block the slowest device, the messages between owners
and holders, the trunk on its owners, its all-reduce and the update. So slow devices get few subnets
and slow links few messages; where messages cost more than a device saves, it gets nothing.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster import Cluster
from d2ft_sched.dense_step import DenseStep
from d2ft_sched.errors import InputError
from d2ft_sched.layout import (
    excess_bytes,
    fitted_layouts,
    has_ample_memory,
    spread,
    subnet_bytes,
    to_placement,
)
from d2ft_sched.operations import Operation
from d2ft_sched.placement import Placement
from d2ft_sched.placement_bound import dense_lower_bound_s
from d2ft_sched.workload import Workload

MAX_POOL = 32
"""Devices that the search looks at, unless memory asks for more."""
MAX_SEEDS = 6
"""Devices around which sets of near ones are tried."""
MAX_ROUNDS = 60
"""Improving moves of the local search."""
NUM_POLISHED = 3
"""Starting points that the local search improves."""
IMPROVEMENT = 1e-9
"""Relative improvement below which a move does not count."""


@dataclass(frozen=True)
class PlacementResult:
    """A placement and what is known of it.

    Attributes:
        placement: where subnets live and who owns micro-batches.
        dense_step_s: seconds of its dense step, by `DenseStep`.
        lower_bound_s: seconds that no placement on the cluster beats.
        method: how it was found.
        solve_s: seconds that finding it took.
        fits_dense: whether the dense step fits every device's memory; else only a plan that keeps
            fewer activations does.
    """

    placement: Placement
    dense_step_s: float
    lower_bound_s: float
    method: str
    solve_s: float
    fits_dense: bool = True

    @property
    def gap(self) -> float:
        """(seconds - bound) / seconds; 0 where the placement is proven optimal."""
        return max(0.0, 1 - self.lower_bound_s / self.dense_step_s)

    @property
    def num_active(self) -> int:
        """Devices that hold subnets."""
        return len(set(self.placement.subnet_device))


@dataclass(frozen=True, eq=False)
class _Layout:
    """Counts ``[num_blocks, num_devices, num_sizes]``, owners, and the seconds of both."""

    counts: np.ndarray
    owner: tuple[int, ...]
    seconds: float

    @property
    def num_active(self) -> int:
        return int(self.counts.any(axis=(0, 2)).sum())


def place_balanced(
    workload: Workload,
    cluster: Cluster,
    *,
    num_waves: int = 1,
    every_device: bool = False,
) -> PlacementResult:
    """The best placement found.

    Args:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        num_waves: groups of micro-batches that pass through the model one after another.
        every_device: every device must hold a subnet of every block, as in the paper (our reading).

    Raises:
        InputError: memory does not suffice, or blocks have fewer subnets than there are devices
            that must each hold one.
    """
    return place_candidates(workload, cluster, num_waves=num_waves, every_device=every_device)[0]


def place_candidates(
    workload: Workload,
    cluster: Cluster,
    *,
    num_waves: int = 1,
    every_device: bool = False,
) -> list[PlacementResult]:
    """The best placement found for each number of active devices, the fastest dense step first.

    Args and errors as for `place_balanced`.
    """
    begin = time.perf_counter()
    if every_device:
        _check_enough_subnets(workload, cluster)
    pool_size = len(cluster.devices) if every_device else min(MAX_POOL, len(cluster.devices))
    while True:
        step = DenseStep(workload, cluster, _pool(workload, cluster, pool_size), num_waves)
        for operation in (Operation.FULL, Operation.SHORTCUT):
            found = _search(step, every_device, operation)
            if found:
                solve_s = time.perf_counter() - begin
                return _results(step, found, every_device, operation, solve_s)
        if pool_size == len(cluster.devices):
            raise InputError(
                f"cluster {cluster.name!r} has {sum(d.memory_bytes for d in cluster.devices):.3g} "
                f"bytes of memory on {len(cluster.devices)} devices; no placement was found that "
                f"holds the parameters, gradients and optimizer state of {workload.shape.name}: "
                f"use more memory, smaller micro-batches or a smaller model"
            )
        pool_size = min(2 * pool_size, len(cluster.devices))


def _check_enough_subnets(workload: Workload, cluster: Cluster) -> None:
    for block in range(workload.shape.num_blocks):
        num_subnets = len(workload.partition.of_block(block))
        if num_subnets < len(cluster.devices):
            raise InputError(
                f"block {block} has {num_subnets} subnets; to give each of the "
                f"{len(cluster.devices)} devices one it must have as many: cut it finer, or let "
                f"devices stay empty"
            )


def _results(
    step: DenseStep,
    found: list[_Layout],
    every_device: bool,
    operation: Operation,
    solve_s: float,
) -> list[PlacementResult]:
    everyone = DenseStep(
        step.workload, step.cluster, tuple(range(len(step.cluster.devices))), step.num_waves
    )
    bound_s = dense_lower_bound_s(everyone, every_device=every_device, operation=operation)
    return [
        PlacementResult(
            placement=to_placement(step, layout.counts, layout.owner),
            dense_step_s=layout.seconds,
            lower_bound_s=min(bound_s, layout.seconds),
            method=f"local search over sets of devices, on {layout.num_active} of "
            f"{len(step.cluster.devices)} devices",
            solve_s=solve_s,
            fits_dense=operation == Operation.FULL,
        )
        for layout in found
    ]


def _pool(workload: Workload, cluster: Cluster, size: int) -> tuple[int, ...]:
    """Indices of the fastest devices and of those with the widest links, half each."""
    num = len(cluster.devices)
    if size >= num:
        return tuple(range(num))
    everyone = DenseStep(workload, cluster, tuple(range(num)))
    by_speed = _by_speed(everyone)
    by_link = sorted(
        by_speed, key=lambda d: -cluster.device_bandwidth_bytes_per_s()[d]
    )  # fastest first among equals
    chosen: dict[int, None] = {}
    for pair in zip(by_speed, by_link, strict=True):
        for device in pair:
            if len(chosen) < size:
                chosen[device] = None
    return tuple(sorted(chosen))


def _by_speed(step: DenseStep) -> list[int]:
    """Devices by the time in which they would do a whole block, the fastest first."""
    whole = step.block_counts.max(axis=0)
    return sorted(range(step.num_devices), key=lambda d: (step.lanes_s(d, whole).sum(), d))


def _search(step: DenseStep, every_device: bool, operation: Operation) -> list[_Layout]:
    """The best layout of each number of active devices, the fastest first; empty if none fits."""
    best: dict[int, _Layout] = {}

    def keep(layout: _Layout) -> None:
        known = best.get(layout.num_active)
        if known is None or layout.seconds < known.seconds * (1 - IMPROVEMENT):
            best[layout.num_active] = layout

    roomy = has_ample_memory(step, operation)
    for devices in _device_sets(step, every_device):
        for owner in _owner_choices(step, devices):
            if roomy:
                counts = spread(step, devices, every_device=every_device)
                layouts = [] if counts is None else [counts]
            else:
                layouts = fitted_layouts(step, devices, owner, operation, every_device=every_device)
            for counts in layouts:
                keep(_Layout(counts, owner, step.seconds(counts, owner)))
    for start in sorted(best.values(), key=lambda v: v.seconds)[:NUM_POLISHED]:
        for layout in _improve(step, start, every_device, None if roomy else operation):
            keep(layout)
    return sorted(best.values(), key=lambda v: v.seconds)


def _device_sets(step: DenseStep, every_device: bool) -> Iterator[tuple[int, ...]]:
    """Sets to balance over: the first k of several orders, for every k that can be active."""
    if every_device:
        yield tuple(range(step.num_devices))
        return
    by_speed = _by_speed(step)
    index = np.array(step.devices)
    own = step.cluster.device_bandwidth_bytes_per_s()[index]
    path = step.cluster.path_bandwidth_bytes_per_s()[np.ix_(index, index)]
    orders = [by_speed, sorted(by_speed, key=lambda d: -own[d])]
    orders += [
        [seed, *sorted((d for d in by_speed if d != seed), key=lambda d: -path[seed, d])]
        for seed in by_speed[:MAX_SEEDS]
    ]
    most = step.num_devices
    if _is_memory_rich(step):
        most = min(most, int(step.block_counts.sum(axis=1).max()))
    seen: set[frozenset[int]] = set()
    for order in orders:
        for k in range(1, most + 1):
            devices = frozenset(order[:k])
            if devices not in seen:
                seen.add(devices)
                yield tuple(sorted(devices))


def _is_memory_rich(step: DenseStep) -> bool:
    """Whether as many devices as a block has subnets could hold the whole model, dense."""
    most = int(step.block_counts.sum(axis=1).max())
    memory = sorted((step.cluster.devices[d].memory_bytes for d in step.devices), reverse=True)
    need = float((step.block_counts @ subnet_bytes(step, Operation.FULL)).sum())
    return need < 0.5 * sum(memory[:most])


def _owner_choices(step: DenseStep, devices: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All micro-batches on one of the devices, or dealt to them by speed, by link, or evenly."""
    num = step.workload.num_microbatches
    fast = [d for d in _by_speed(step) if d in devices]
    for device in fast[:MAX_SEEDS]:
        yield (device,) * num
    if len(devices) == 1:
        return
    whole = step.block_counts.max(axis=0)
    speed = np.array([1 / step.lanes_s(d, whole).sum() for d in devices])
    index = [step.devices[d] for d in devices]
    link = step.cluster.device_bandwidth_bytes_per_s()[index]
    for weight in (speed, link, np.ones(len(devices))):
        if np.isfinite(weight).all():
            yield _deal(step, devices, weight)


def _deal(step: DenseStep, devices: tuple[int, ...], weight: np.ndarray) -> tuple[int, ...]:
    size = step.workload.activation_bytes.astype(float)
    load = np.zeros(len(devices))
    owner = [0] * len(size)
    for i in np.argsort(-size, kind="stable"):
        best = int(np.argmin((load + size[i]) / weight))
        load[best] += size[i]
        owner[i] = devices[best]
    return tuple(owner)


def _improve(
    step: DenseStep, start: _Layout, every_device: bool, operation: Operation | None
) -> Iterator[_Layout]:
    """Better and better layouts; `operation` says what must fit, None where everything does."""
    current = start
    for _ in range(MAX_ROUNDS):
        for candidate in _moves(step, current, every_device):
            if candidate.seconds >= current.seconds * (1 - IMPROVEMENT):
                continue
            if operation is not None:
                excess = excess_bytes(step, candidate.counts, candidate.owner, operation)
                if (excess > 0).any():
                    continue
            current = candidate
            yield current
            break
        else:
            return


def _moves(step: DenseStep, layout: _Layout, every_device: bool) -> Iterator[_Layout]:
    """Neighbours: another owner for one micro-batch or all, another device for a subnet of equal
    blocks, a device emptied."""
    counts, owner = layout.counts, layout.owner
    active = np.flatnonzero(counts.any(axis=(0, 2))).tolist()
    fast = _by_speed(step)[:MAX_SEEDS]
    targets = sorted({*active, *owner, *fast})
    size = step.workload.microbatch_samples
    for device in targets:
        yield _Layout(counts, (device,) * len(owner), step.seconds(counts, (device,) * len(owner)))
    tried: set[tuple[int, int]] = set()
    for i, old in enumerate(owner):
        if step.num_waves == 1 and (old, size[i]) in tried:
            continue
        tried.add((old, size[i]))
        for device in targets:
            if device != old:
                moved = (*owner[:i], device, *owner[i + 1 :])
                yield _Layout(counts, moved, step.seconds(counts, moved))
    distinct, group = np.unique(counts, axis=0, return_inverse=True)
    for g, held in enumerate(distinct):
        for source in np.flatnonzero(held.any(axis=1)):
            for s in np.flatnonzero(held[source]):
                if every_device and held[source].sum() == 1:
                    continue
                for target in targets:
                    if target != source:
                        changed = counts.copy()
                        changed[group.ravel() == g, source, s] -= 1
                        changed[group.ravel() == g, target, s] += 1
                        yield _Layout(changed, owner, step.seconds(changed, owner))
    if every_device:
        return
    for device in active:
        rest = tuple(d for d in active if d != device)
        again = spread(step, rest) if rest else None
        if again is not None:
            yield _Layout(again, owner, step.seconds(again, owner))
            if device in owner:
                heir = next(d for d in _by_speed(step) if d in rest)
                moved = tuple(heir if d == device else d for d in owner)
                yield _Layout(again, moved, step.seconds(again, moved))
