"""The search over ways: the fastest replicas for a load, and the table of dense steps."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from sim.dense.shares import level_shares
from sim.ways.bound import least_step_s
from sim.ways.estimate.deal import load_schedule
from sim.ways.estimate.load import Load, dense_load
from sim.ways.estimate.steps import Groups, Levelled, WaySteps
from sim.ways.groups import (
    MAX_EXHAUSTIVE_GROUPS,
    alone_seconds,
    chunkings,
    cut_groups,
    device_sets,
    optimistic_seconds,
    partitions,
)
from sim.ways.price import price
from sim.ways.way import Way, WayKind, kind_of

MAX_WAYS = 3
"""Ways of each kind that are shown."""
MAX_IMPROVED = 3
"""Ways that single changes of their devices are tried on."""
MAX_ROUNDS = 12
"""Changes, one after another."""
WORTH_POLISHING = 1.25
"""Estimated step over the best, up to which the cut of a replica is searched thoroughly."""
WORTH_A_HYBRID = 0.005
"""Part of the step that cutting some replicas must be able to save, for its messages."""
MAX_POLISHED = 1
"""Ways whose cuts are."""


@dataclass(frozen=True, eq=False)
class WaySearch:
    """Ways of a mini-batch on a cluster.

    Attributes:
        workload: as asked for.
        cluster: devices and links.
        kinds: those that were looked at.
        ways: those that fit first, by their dense step.
        lower_bound_s: seconds of a dense step that no way beats.
        solve_s: seconds that the search took.
        steps: prices, for more questions about the same mini-batch.
    """

    workload: Workload
    cluster: Cluster
    kinds: tuple[WayKind, ...]
    ways: tuple[Way, ...]
    lower_bound_s: float
    solve_s: float
    steps: WaySteps = field(repr=False)


def search_ways(
    workload: Workload,
    cluster: Cluster,
    *,
    kinds: Collection[WayKind | str] | None = None,
) -> WaySearch:
    """Search replicas, the cut inside each, and their shares, within every device's memory.

    Args:
        workload: model, partition and mini-batch. Ways deal its samples anew: only their number
            counts, and that no micro-batch is to be larger than its largest.
        cluster: devices and links.
        kinds: those to look at, such as ``["data parallel"]``; default all.

    Raises:
        InputError: there is no such kind.
    """
    begin = time.perf_counter()
    steps, wanted = WaySteps(workload, cluster), _kinds(kinds)
    found = best_replicas(steps, dense_load(workload), wanted)
    ways = (way_of(steps, one) for one in shown(steps, found))
    return WaySearch(
        workload,
        cluster,
        wanted,
        _in_order(ways),
        least_step_s(workload, cluster),
        time.perf_counter() - begin,
        steps,
    )


def with_way(search: WaySearch, groups: Groups) -> WaySearch:
    """With the dense step on these replicas, too, if there is one."""
    if any(way.groups == groups for way in search.ways):
        return search
    found = search.steps.level(groups, dense_load(search.workload))
    if found is None:
        return search
    return replace(search, ways=_in_order([*search.ways, way_of(search.steps, found)]))


def _in_order(ways: Iterable[Way]) -> tuple[Way, ...]:
    """Those that fit first, by their dense step; each once, for some end on the same devices, where
    a cut leaves one empty."""
    once: dict[Groups, Way] = {}
    for way in sorted(ways, key=lambda way: (not way.fits, way.dense_step_s)):
        once.setdefault(way.groups, way)
    return tuple(once.values())


def _kinds(kinds: Collection[WayKind | str] | None) -> tuple[WayKind, ...]:
    known = tuple(WayKind)
    for kind in kinds or ():
        if kind not in known:
            raise InputError(f"way is {kind!r}; it must be one of {', '.join(known)}")
    return tuple(k for k in known if kinds is None or k in kinds)


def shown(steps: WaySteps, found: Sequence[Levelled]) -> list[Levelled]:
    """The fastest few of each kind; of those on devices that are alike the first."""
    by_kind: dict[WayKind, dict[object, Levelled]] = {}
    for one in found:
        alike = by_kind.setdefault(kind_of(one.groups), {})
        key = tuple(sorted(tuple(sorted(steps.alike(d) for d in g)) for g in one.groups))
        if len(alike) < MAX_WAYS:
            alike.setdefault(key, one)
    return [one for alike in by_kind.values() for one in alike.values()]


def way_of(steps: WaySteps, found: Levelled) -> Way:
    """The way of some replicas, its dense step predicted."""
    dealt = steps.deal(found.groups, found.shares)
    schedule = load_schedule(dealt, found.load)
    deployment = Deployment(dealt.workload, steps.cluster, dealt.replicas)
    priced = price(deployment, schedule)
    return Way(
        **vars(deployment),
        name=kind_of(found.groups),
        dense_step_s=priced.step_s,
        fits=priced.fits,
        peak_memory_bytes=priced.peak_memory_bytes,
    )


def best_dense(search: WaySearch) -> Way:
    """The least dense step of any way that fits.

    Raises:
        InputError: memory does not suffice for any.
    """
    best = next((way for way in search.ways if way.fits), None)
    if best is None:
        memory = sum(device.memory_bytes for device in search.cluster.devices)
        one_kind = len(search.kinds) < len(WayKind)
        kinds = f" (only {', '.join(search.kinds)} was looked at)" if one_kind else ""
        raise InputError(
            f"cluster {search.cluster.name!r}: {search.workload.shape.name} does not fit its "
            f"{memory / 1e9:.3g} GB of memory, neither on one device nor cut over several"
            f"{kinds}; use more memory, LoRA or a smaller model"
        )
    return best


def best_replicas(
    steps: WaySteps, load: Load, kinds: Sequence[WayKind] = tuple(WayKind)
) -> list[Levelled]:
    """Replicas with level shares for a load, by their estimated step; of each kind that fits."""
    known: dict[Groups, Levelled] = {}

    def look(candidates: Iterable[Groups], below_s: float = np.inf) -> None:
        for groups in candidates:
            if groups not in known:
                found = steps.level(groups, load, below_s)
                if found is not None and kind_of(found.groups) in kinds:
                    before = known.get(found.groups)
                    if before is None or found.step_s < before.step_s:
                        known[found.groups] = found

    look(device_sets(steps, load))
    if {WayKind.CUT, WayKind.HYBRID} & set(kinds):
        groups = cut_groups(steps, load)
        if WayKind.CUT in kinds:
            look((g,) for g in _hopeful(groups, _least_s(known)))
        if WayKind.HYBRID in kinds and groups:
            look(_level_chunkings(steps, load, WORTH_POLISHING * _least_s(known)))
            if len(steps.cluster.devices) <= MAX_EXHAUSTIVE_GROUPS:
                for replicas, optimistic_s in _hopeful_partitions(steps, load, groups):
                    if optimistic_s >= (1 - WORTH_A_HYBRID) * _least_s(known):
                        break
                    look([replicas], _least_s(known))
        for one in _worth_polishing(known):
            steps.polish(one.groups, one.shares)
            del known[one.groups]
            look([one.groups])
    for one in _fastest(known)[:MAX_IMPROVED]:
        current = one
        for _ in range(MAX_ROUNDS):
            look(_changed(steps, current.groups), current.step_s)
            best = _fastest(known)[0]
            if best.step_s >= current.step_s:
                break
            current = best
    return _fastest(known)


def _fastest(known: dict[Groups, Levelled]) -> list[Levelled]:
    return sorted(known.values(), key=lambda f: (f.step_s, sum(map(len, f.groups))))


def _least_s(known: dict[Groups, Levelled]) -> float:
    return min((found.step_s for found in known.values()), default=np.inf)


def _hopeful(groups: dict[tuple[int, ...], np.ndarray], least_s: float) -> list[tuple[int, ...]]:
    """Groups that may be the only replica of a way not much slower than the best, and in any case
    those that look best."""
    ordered = sorted(groups, key=lambda group: float(groups[group][-1]))
    near = [g for g in ordered if groups[g][-1] < WORTH_POLISHING * least_s]
    return [*ordered[:MAX_WAYS], *near[MAX_WAYS:]]


def _hopeful_partitions(
    steps: WaySteps, load: Load, groups: dict[tuple[int, ...], np.ndarray]
) -> list[tuple[Groups, float]]:
    """Several replicas, some of them cut, by what their forward and backward takes at the least,
    which is beside them."""
    alone_s = alone_seconds(steps, load, is_shared=True)
    able = np.flatnonzero(np.isfinite(alone_s[:, 1])).tolist()
    rows = dict(groups)
    rows.update({(d,): alone_s[d] for d in able})
    hopeful: dict[Groups, float] = {}
    for replicas in partitions(range(len(steps.cluster.devices)), list(groups), able):
        seconds = np.array([rows[group] for group in replicas])
        shares = level_shares(seconds, load.num_samples)
        if len(replicas) > 1 and shares is not None:
            hopeful[replicas] = float(seconds[np.arange(len(shares)), shares].max())
    return sorted(hopeful.items(), key=lambda found: found[1])


def _level_chunkings(steps: WaySteps, load: Load, below_s: float) -> Iterator[Groups]:
    """The fastest few groups of every chunking of the islands that may stay below a step."""
    alone_s = alone_seconds(steps, load, is_shared=True)
    for chunking in chunkings(steps):
        rows = [
            optimistic_seconds(steps, g, alone_s) if len(g) > 1 else alone_s[g[0]] for g in chunking
        ]
        shares = level_shares(np.array(rows), load.num_samples)
        if shares is None or max(r[n] for r, n in zip(rows, shares, strict=True)) >= below_s:
            continue
        seconds = {g: float(steps.run(g, load, True).total_s[-1]) for g in chunking}
        order = sorted(chunking, key=lambda g: seconds[g])
        for number in range(2, len(order) + 1):
            yield tuple(sorted(order[:number]))


def _worth_polishing(known: dict[Groups, Levelled]) -> list[Levelled]:
    ordered = _fastest(known)
    cut = [f for f in ordered if any(len(g) > 1 for g in f.groups)]
    return [f for f in cut if f.step_s <= WORTH_POLISHING * ordered[0].step_s][:MAX_POLISHED]


def _changed(steps: WaySteps, groups: Groups) -> Iterable[Groups]:
    """With one device more or less, or one in the place of another; of those that are alike only
    the first."""
    if any(len(g) > 1 for g in groups):
        return
    members = {g[0] for g in groups}
    outside = set(range(len(steps.cluster.devices))) - members
    out, more = (_one_of_each_kind(steps, devices) for devices in (members, outside))
    changed = [members - {d} for d in out]
    changed += [members | {d} for d in more]
    changed += [members - {d} | {other} for d in out for other in more]
    for devices in changed:
        if devices:
            yield tuple((d,) for d in sorted(devices))


def _one_of_each_kind(steps: WaySteps, devices: Collection[int]) -> list[int]:
    found = {steps.alike(d): d for d in sorted(devices, reverse=True)}
    return sorted(found.values())
