"""The least dense step of few devices by trying ways one after another, priced by the simulator.

Beside the search for ways: sets of devices are tried as replicas in every combination, shares are
dealt by what the simulator says of each replica, cuts are those of `d2ft_sched.placement_search`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import Deployment
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import to_placement
from d2ft_sched.placement_search.local_search import search_layouts
from d2ft_sched.schedule.placement import Placement
from sim.dense.memory_passes import PassMemory, split_evenly
from sim.step import simulate_dense
from sim.ways.estimate.deal import ReplicaLayout, deal
from sim.ways.estimate.runs import fewest_passes

MOST_DEVICES = 6
"""Up to which every combination is tried."""
ROUNDS = 5
"""Times that shares are dealt anew by what each replica took."""
NEAR = 1.03
"""Step over the least so far, up to which single samples are moved."""
MOST_CUTS = 4
"""Combinations with cut replicas that are tried, those of most speed for their messages first."""
MOST_PASSES = 8
"""Of a cut replica; what needs more is left to the search."""


@dataclass(frozen=True)
class Tried:
    """A way that was tried: its step, or inf where memory does not suffice."""

    step_s: float
    groups: tuple[tuple[int, ...], ...]
    shares: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LeastDense:
    """Tries ways of one mini-batch.

    Attributes:
        workload: model, partition and mini-batch.
        cluster: devices and links.
    """

    workload: Workload
    cluster: Cluster
    _cuts: dict[tuple[tuple[int, ...], int], Placement | None] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def _fewest_passes(self) -> list[np.ndarray]:
        """Of every device by its samples; 0 where not even one sample fits."""
        memory, most = PassMemory(self.workload), int(self.workload.samples.sum())
        return [fewest_passes(memory, d.memory_bytes, most) for d in self.cluster.devices]

    def found(self) -> Tried:
        """The least of all."""
        everyone = range(len(self.cluster.devices))
        least = Tried(np.inf, (), ())
        for number in everyone:
            for members in combinations(everyone, number + 1):
                least = self._better(tuple((d,) for d in members), least)
        for groups in self._with_cuts(least.step_s):
            least = self._better(groups, least)
        return least

    def _better(self, groups: tuple[tuple[int, ...], ...], least: Tried) -> Tried:
        total = int(self.workload.samples.sum())
        if len(groups) > total:
            return least
        shares, seen = _dealt(self._speed(groups), total), set()
        best = Tried(np.inf, groups, shares)
        for _ in range(ROUNDS):
            if shares in seen:
                break
            seen.add(shares)
            step_s, took_s = self._step(groups, shares)
            if step_s < best.step_s:
                best = Tried(step_s, groups, shares)
            if not np.isfinite(step_s):
                break
            shares = _dealt(np.array(shares) / took_s, total)
        if best.step_s < NEAR * least.step_s:
            best = self._moved(best)
        return min(best, least, key=lambda tried: tried.step_s)

    def _moved(self, best: Tried) -> Tried:
        """With single samples moved from one replica to another, as long as that helps."""
        moves = [(a, b) for a in range(len(best.shares)) for b in range(len(best.shares)) if a != b]
        helps = True
        while helps:
            helps = False
            for a, b in moves:
                shares = np.array(best.shares)
                shares[a] -= 1
                shares[b] += 1
                if shares[a] < 1:
                    continue
                step_s, _ = self._step(best.groups, tuple(shares.tolist()))
                if step_s < best.step_s:
                    best, helps = Tried(step_s, best.groups, tuple(shares.tolist())), True
        return best

    def _speed(self, groups: Sequence[tuple[int, ...]]) -> np.ndarray:
        peak = np.array([device.compute_flops_per_s for device in self.cluster.devices])
        return np.array([peak[list(group)].sum() for group in groups])

    def _step(
        self, groups: Sequence[tuple[int, ...]], shares: Sequence[int]
    ) -> tuple[float, np.ndarray]:
        """Seconds of the step in the fewest passes of each replica that memory holds, and those
        until each replica's backward ends."""
        memory = np.array([device.memory_bytes for device in self.cluster.devices])
        passes = [
            int(self._fewest_passes[group[0]][share]) if len(group) == 1 else 1
            for group, share in zip(groups, shares, strict=True)
        ]
        if not all(passes):
            return np.inf, np.ones(len(groups))
        while True:
            layouts = [
                self._layout(group, share, number)
                for group, share, number in zip(groups, shares, passes, strict=True)
            ]
            full = [r for r, layout in enumerate(layouts) if layout is None]
            if full:
                if any(passes[r] >= min(shares[r], MOST_PASSES) for r in full):
                    return np.inf, np.ones(len(groups))
                passes = [
                    min(s, 2 * n) if r in full else n
                    for r, (s, n) in enumerate(zip(shares, passes, strict=True))
                ]
                continue
            dealt = deal(
                self.workload, len(memory), [layout for layout in layouts if layout is not None]
            )
            step = simulate_dense(Deployment(dealt.workload, self.cluster, dealt.replicas))
            over = step.peak_memory_bytes > memory
            full = [r for r, group in enumerate(groups) if over[list(group)].any()]
            if not full:
                own = [p for p in step.phases if not p.is_sum]
                took_s = [
                    max((p.end_s for p in own if p.replica == r), default=step.step_s)
                    for r in range(len(groups))
                ]
                return step.step_s, np.array(took_s)
            for r in full:
                if passes[r] >= (shares[r] if len(groups[r]) == 1 else min(shares[r], MOST_PASSES)):
                    return np.inf, np.ones(len(groups))
                more = 2 * passes[r] if len(groups[r]) > 1 else passes[r] + 1
                passes[r] = min(shares[r], more)

    def _layout(self, group: tuple[int, ...], share: int, passes: int) -> ReplicaLayout | None:
        sizes = split_evenly(share, passes)
        largest = max(self.workload.microbatch_samples)
        if len(group) == 1:
            pieces = -(-sizes[0] // largest)
            subnet_device = (group[0],) * self.workload.num_subnets
            return ReplicaLayout(subnet_device, (group[0],) * pieces, sizes, ())
        size = 1 << (sizes[0] - 1).bit_length()
        if (group, size) not in self._cuts:
            self._cuts[group, size] = self._cut(group, size)
        placement = self._cuts[group, size]
        if placement is None:
            return None
        return ReplicaLayout(placement.subnet_device, placement.owner, sizes, ())

    def _cut(self, group: tuple[int, ...], size: int) -> Placement | None:
        """The least dense pass of so many samples over some devices; None where none fits."""
        largest = max(self.workload.microbatch_samples)
        pieces = min(size, max(-(-size // largest), 2 * len(group)))
        of_pass = replace(self.workload, microbatch_samples=split_evenly(size, pieces))
        step = DenseStep(of_pass, self.cluster, group, 1)
        layouts = search_layouts(step, every_device=False, kept_share=1.0)
        if not layouts:
            return None
        best = min(layouts, key=lambda layout: layout.seconds)
        return to_placement(step, best.counts, best.owner)

    def _with_cuts(self, below_s: float) -> Iterator[tuple[tuple[int, ...], ...]]:
        """Replicas of which at least one is cut, if sharing work perfectly could pay for the
        messages of a block's input alone."""
        shape, total = self.workload.shape, int(self.workload.samples.sum())
        bandwidth = self.cluster.device_bandwidth_bytes_per_s()
        alone = [self._step(((d,),), (total,))[0] for d in range(len(bandwidth))]
        peak = self._speed([(d,) for d in range(len(bandwidth))])
        finite = np.isfinite(alone)
        known = finite.any()
        rate = total / np.array(alone) if known else np.zeros(len(peak))
        scale = (rate[finite] / peak[finite]).max() if known else 1.0
        speed = np.where(finite & known, rate, scale * peak)
        sample_bytes = shape.num_tokens * shape.width * self.workload.element_bytes
        hopeful = []
        for groups in _partitions(tuple(range(len(bandwidth)))):
            if all(len(group) == 1 for group in groups):
                continue  # none at all is of these, too
            if any(len(group) == 1 and not finite[group[0]] for group in groups):
                continue
            rates = [
                1
                / (
                    1 / speed[list(group)].sum()
                    + (len(group) > 1)
                    * 8 * shape.num_blocks * sample_bytes / bandwidth[list(group)].sum()
                )
                for group in groups
            ]  # fmt: skip
            at_least_s = total / sum(rates)
            if not known or at_least_s < below_s:
                hopeful.append((at_least_s, groups))
        yield from (groups for _, groups in sorted(hopeful)[:MOST_CUTS])


def _dealt(speed: np.ndarray, total: int) -> tuple[int, ...]:
    """Whole samples in proportion, at least one each."""
    wanted = (total - len(speed)) * speed / speed.sum()
    shares = np.floor(wanted).astype(int)
    order = np.argsort(shares - wanted, kind="stable")
    shares[order[: total - len(speed) - int(shares.sum())]] += 1
    return tuple((shares + 1).tolist())


def _partitions(devices: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every set of disjoint sets of devices."""
    if not devices:
        yield ()
        return
    first, rest = devices[0], devices[1:]
    for others in _partitions(rest):
        yield others
        for i, group in enumerate(others):
            yield (*others[:i], (first, *group), *others[i + 1 :])
        yield ((first,), *others)
