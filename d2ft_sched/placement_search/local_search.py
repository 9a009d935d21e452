"""The search behind `place_balanced`: sets of devices, owners, and moves that improve.

Starts from balancing every block over many sets of devices, under several choices of owners; the
best starts are then improved by moves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import (
    excess_bytes,
    fitted_layouts,
    has_ample_memory,
    spread,
    subnet_bytes,
)

MAX_SEEDS = 6
"""Devices around which sets of near ones are tried."""
MAX_ROUNDS = 60
"""Improving moves of the local search."""
NUM_POLISHED = 3
"""Starting points that the local search improves."""
IMPROVEMENT = 1e-9
"""Relative improvement below which a move does not count."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Counts ``[num_blocks, num_devices, num_sizes]``, owners, and the seconds of both."""

    counts: np.ndarray
    owner: tuple[int, ...]
    seconds: float

    @property
    def num_active(self) -> int:
        return int(self.counts.any(axis=(0, 2)).sum())


def devices_by_speed(step: DenseStep) -> list[int]:
    """Devices by the time in which they would do a whole block, the fastest first."""
    whole = step.block_counts.max(axis=0)
    return sorted(range(step.num_devices), key=lambda d: (step.lanes_s(d, whole).sum(), d))


def search_layouts(step: DenseStep, every_device: bool, kept_share: float) -> list[Layout]:
    """The best layout of each number of active devices, the fastest first; empty if none fits.

    Args:
        step: prices of the dense step.
        every_device: every device must hold a subnet of every block.
        kept_share: of what FULL operations keep for backward that must fit.
    """
    best: dict[int, Layout] = {}

    def keep(layout: Layout) -> None:
        known = best.get(layout.num_active)
        if known is None or layout.seconds < known.seconds * (1 - IMPROVEMENT):
            best[layout.num_active] = layout

    roomy = has_ample_memory(step)
    for devices in _device_sets(step, every_device):
        for owner in _owner_choices(step, devices):
            if roomy:
                counts = spread(step, devices, every_device=every_device)
                layouts = [] if counts is None else [counts]
            else:
                layouts = fitted_layouts(
                    step, devices, owner, kept_share, every_device=every_device
                )
            for counts in layouts:
                keep(Layout(counts, owner, step.seconds(counts, owner)))
    for start in sorted(best.values(), key=lambda v: v.seconds)[:NUM_POLISHED]:
        for layout in _improve(step, start, every_device, None if roomy else kept_share):
            keep(layout)
    return sorted(best.values(), key=lambda v: v.seconds)


def _device_sets(step: DenseStep, every_device: bool) -> Iterator[tuple[int, ...]]:
    """Sets to balance over: the first k of several orders, for every k that can be active."""
    if every_device:
        yield tuple(range(step.num_devices))
        return
    by_speed = devices_by_speed(step)
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
    need = float((step.block_counts @ subnet_bytes(step, 1.0)).sum())
    return need < 0.5 * sum(memory[:most])


def _owner_choices(step: DenseStep, devices: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All micro-batches on one of the devices, or dealt to them by speed, by link, or evenly."""
    num = step.workload.num_microbatches
    fast = [d for d in devices_by_speed(step) if d in devices]
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
    step: DenseStep, start: Layout, every_device: bool, kept_share: float | None
) -> Iterator[Layout]:
    """Better and better layouts; `kept_share` says what must fit, None where everything does."""
    current = start
    for _ in range(MAX_ROUNDS):
        for candidate in _moves(step, current, every_device):
            if candidate.seconds >= current.seconds * (1 - IMPROVEMENT):
                continue
            if kept_share is not None:
                excess = excess_bytes(step, candidate.counts, candidate.owner, kept_share)
                if (excess > 0).any():
                    continue
            current = candidate
            yield current
            break
        else:
            return


def _moves(step: DenseStep, layout: Layout, every_device: bool) -> Iterator[Layout]:
    """Neighbours: another owner for one micro-batch or all, another device for a subnet of equal
    blocks, a device emptied."""
    counts, owner = layout.counts, layout.owner
    active = np.flatnonzero(counts.any(axis=(0, 2))).tolist()
    fast = devices_by_speed(step)[:MAX_SEEDS]
    targets = sorted({*active, *owner, *fast})
    size = step.workload.microbatch_samples
    for device in targets:
        yield Layout(counts, (device,) * len(owner), step.seconds(counts, (device,) * len(owner)))
    tried: set[tuple[int, int]] = set()
    for i, old in enumerate(owner):
        if step.num_waves == 1 and (old, size[i]) in tried:
            continue
        tried.add((old, size[i]))
        for device in targets:
            if device != old:
                moved = (*owner[:i], device, *owner[i + 1 :])
                yield Layout(counts, moved, step.seconds(counts, moved))
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
                        yield Layout(changed, owner, step.seconds(changed, owner))
    if every_device:
        return
    for device in active:
        rest = tuple(d for d in active if d != device)
        again = spread(step, rest) if rest else None
        if again is not None:
            yield Layout(again, owner, step.seconds(again, owner))
            if device in owner:
                heir = next(d for d in devices_by_speed(step) if d in rest)
                moved = tuple(heir if d == device else d for d in owner)
                yield Layout(again, moved, step.seconds(again, moved))
