"""Which devices may form a replica, and which replicas a way may have."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
from scipy.sparse.csgraph import connected_components

from d2ft_sched.cluster.cluster import Cluster
from sim.ways.estimate.load import Load
from sim.ways.estimate.steps import Groups, WaySteps

MAX_EXHAUSTIVE_GROUPS = 6
"""Devices up to which all sets of them are looked at as a replica, and all ways to form several."""
MAX_EXHAUSTIVE_SETS = 8
"""Devices up to which all sets of them are tried as replicas of one device each."""
MAX_PREFIXES = 16
"""First devices or groups of an order that are tried."""
EXCHANGES = 8
"""Dispatches and combines of a block, forward and backward, of both sub-layers."""


def islands(cluster: Cluster) -> list[tuple[tuple[int, ...], ...]]:
    """Devices joined by links of at least some bandwidth, for every such bandwidth, the widest
    first; the last is all devices together."""
    bandwidth = cluster.path_bandwidth_bytes_per_s()
    levels = np.unique(bandwidth[np.isfinite(bandwidth)])[::-1]
    found: dict[tuple[tuple[int, ...], ...], None] = {}
    for level in levels.tolist():
        _, label = connected_components(bandwidth >= level)
        members = [tuple(np.flatnonzero(label == i).tolist()) for i in np.unique(label)]
        found[tuple(sorted(m for m in members if len(m) > 1))] = None
    return list(found)


def device_sets(steps: WaySteps, load: Load) -> list[Groups]:
    """Sets of devices that each hold the whole model: all of few, else the first by several
    orders."""
    alone_s = alone_seconds(steps, load)
    able = np.flatnonzero(np.isfinite(alone_s[:, 1])).tolist()
    if len(able) <= MAX_EXHAUSTIVE_SETS:
        return [
            tuple((d,) for d in members)
            for k in range(1, len(able) + 1)
            for members in combinations(able, k)
        ]
    bandwidth = steps.cluster.device_bandwidth_bytes_per_s()
    speed = alone_s[:, min(load.num_samples, alone_s.shape[1] - 1)]
    by_speed = sorted(able, key=lambda d: (speed[d], -bandwidth[d]))
    orders = [by_speed, sorted(by_speed, key=lambda d: -bandwidth[d])]
    for level in islands(steps.cluster):
        inside = sorted(level, key=lambda members: min(speed[d] for d in members))
        known = [d for members in inside for d in by_speed if d in members]
        orders.append(known + [d for d in by_speed if d not in set(known)])
    return [tuple((d,) for d in sorted(prefix)) for o in orders for prefix in _prefixes(o)]


def alone_seconds(steps: WaySteps, load: Load, is_shared: bool = False) -> np.ndarray:
    """Forward and backward of every device with the whole model, float
    ``[num_devices, num_samples + 1]``; `is_shared` as for `WaySteps.device_runs`."""
    devices = range(len(steps.cluster.devices))
    return np.array([steps.run((d,), load, is_shared).total_s for d in devices])


def cut_groups(steps: WaySteps, load: Load) -> dict[tuple[int, ...], np.ndarray]:
    """Sets of devices that may do better with the model cut over them than any of them alone, and
    what they take at the least, see `optimistic_seconds`."""
    num_devices = len(steps.cluster.devices)
    if num_devices <= MAX_EXHAUSTIVE_GROUPS:
        sizes = range(2, num_devices + 1)
        tried: Iterable[tuple[int, ...]] = (
            group for k in sizes for group in combinations(range(num_devices), k)
        )
    else:
        tried = _chunks(steps)
    alone_s = alone_seconds(steps, load)
    found = {group: optimistic_seconds(steps, group, alone_s) for group in dict.fromkeys(tried)}
    with np.errstate(invalid="ignore"):
        return {
            group: seconds
            for group, seconds in found.items()
            if (seconds < alone_s[list(group)].min(axis=0))[1:].any()
        }


def optimistic_seconds(steps: WaySteps, group: tuple[int, ...], alone_s: np.ndarray) -> np.ndarray:
    """Forward and backward of a replica cut over some devices if they shared work perfectly and
    messages met nobody: rarely more than any cut takes.

    Args:
        steps: prices.
        group: indices of at least two devices.
        alone_s: of `alone_seconds`.

    Returns:
        float ``[num_samples + 1]``.
    """
    shape, samples = steps.workload.shape, np.arange(alone_s.shape[1])
    bandwidth = steps.cluster.device_bandwidth_bytes_per_s()[list(group)]
    latency_s = steps.cluster.path_latency_s()[np.ix_(group, group)]
    message_bytes = shape.num_tokens * shape.width * steps.workload.element_bytes
    exchange_s = samples * message_bytes / bandwidth.sum()
    exchange_s += latency_s[latency_s > 0].min(initial=np.inf) if (latency_s > 0).any() else 0.0
    speed = steps.device_speed[list(group), None]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(np.isfinite(alone_s[list(group)]), samples / alone_s[list(group)], speed)
    each[:, 0] = speed[:, 0]
    uneven = _whole_subnets(each[:, -1], int(np.bincount(steps.workload.partition.block).min()))
    seconds = uneven * samples / each.sum(axis=0) + EXCHANGES * shape.num_blocks * exchange_s
    seconds[0] = 0.0
    return seconds


def _whole_subnets(speed: np.ndarray, number: int) -> float:
    """By what factor a block takes longer because its subnets are whole: so many equal ones, dealt
    to devices of some speed."""
    levels = np.unique(np.arange(1, number + 1) / speed[:, None])
    done = np.floor(levels[:, None] * speed * (1 + 1e-12)).sum(axis=1)
    return float(levels[np.argmax(done >= number)] * speed.sum() / number)


def _chunks(steps: WaySteps) -> Iterator[tuple[int, ...]]:
    """Of every island and of all devices, the fastest few, and neighbours of equal number."""
    for chunking in chunkings(steps):
        yield from chunking
    speed = steps.device_speed
    for members in (m for level in islands(steps.cluster) for m in level):
        order = sorted(members, key=lambda d: (-speed[d], d))
        for prefix in _prefixes(order):
            if len(prefix) > 1:
                yield tuple(sorted(prefix))


def chunkings(steps: WaySteps) -> list[Groups]:
    """Every island cut into groups of so many devices, for several numbers; devices that are in no
    island stand alone."""
    speed = steps.device_speed
    found: dict[Groups, None] = {}
    everyone = range(len(steps.cluster.devices))
    for level in islands(steps.cluster):
        largest = max(map(len, level))
        for size in _sizes(largest)[1:]:
            groups = [
                tuple(sorted(order[i : i + size]))
                for members in level
                for order in [sorted(members, key=lambda d: (-speed[d], d))]
                for i in range(0, len(order), size)
            ]
            inside = {d for group in groups for d in group}
            groups += [(d,) for d in everyone if d not in inside]
            found[tuple(sorted(groups))] = None
    return list(found)


def partitions(
    devices: Sequence[int], groups: Sequence[tuple[int, ...]], able: Sequence[int]
) -> Iterator[Groups]:
    """All ways to form replicas of these groups, and of single devices that are able, at least one
    of them a group."""
    allowed = {frozenset(g) for g in groups} | {frozenset((d,)) for d in able}
    for replicas in _packings(tuple(devices), allowed):
        if any(len(g) > 1 for g in replicas):
            yield tuple(sorted(replicas))


def _packings(
    devices: tuple[int, ...], allowed: set[frozenset[int]]
) -> Iterator[list[tuple[int, ...]]]:
    if not devices:
        yield []
        return
    first, rest = devices[0], devices[1:]
    yield from _packings(rest, allowed)
    for k in range(len(rest) + 1):
        for others in combinations(rest, k):
            group = (first, *others)
            if frozenset(group) in allowed:
                left = tuple(d for d in rest if d not in others)
                yield from ([group, *more] for more in _packings(left, allowed))


def _sizes(most: int) -> list[int]:
    """1 and some larger numbers up to `most`."""
    return np.unique(np.geomspace(1, most, MAX_PREFIXES).round().astype(int)).tolist()


def _prefixes(order: Sequence[int]) -> list[Sequence[int]]:
    return [order[:size] for size in _sizes(len(order))]
