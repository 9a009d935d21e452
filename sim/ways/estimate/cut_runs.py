"""A replica cut over several devices: layouts within their memory, and what they take."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import excess_bytes, fitted_layouts, spread, to_placement
from d2ft_sched.placement_search.local_search import devices_by_speed, search_layouts
from d2ft_sched.placement_search.recomputing import keeping_where_possible
from sim.dense.memory_passes import split_evenly
from sim.ways.estimate.kept_cut import KeptCut
from sim.ways.estimate.load import Load, dense_load, sample_flops
from sim.ways.estimate.runs import ReplicaRun, input_bytes

NUM_PRICED = 4
"""Numbers of samples that a cut replica is priced for; between them it is interpolated."""
BACKWARD_SHARE = 2 / 3
"""Of forward and backward, roughly: for what of the sums a cut replica's backward hides."""
MOST_REMEMBERED = 2048
MAX_OWNERS = 8
"""Devices up to which each may own a micro-batch of every wave."""


@dataclass(frozen=True)
class CutLayout:
    """How a replica is cut for some samples; devices are counted within the group.

    Attributes:
        num_waves: that pass one after another, each of the same size but for one sample.
        most_per_wave: samples of the largest.
        subnet_device: device of every subnet.
        owner: of every micro-batch of a wave.
        compute_s: forward and backward of all waves, without messages.
        messages_s: of dispatch and combine.
        update_s: of the parameter update.
        recomputing: devices that compute forward again in backward, sorted.
    """

    num_waves: int
    most_per_wave: int
    subnet_device: tuple[int, ...]
    owner: tuple[int, ...]
    recomputing: tuple[int, ...]
    compute_s: float
    messages_s: float
    update_s: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.messages_s

    @property
    def used(self) -> tuple[int, ...]:
        """Devices that hold subnets or own micro-batches, sorted."""
        return tuple(sorted({*self.subnet_device, *self.owner}))

    def of_used(self) -> "CutLayout":
        """The same with devices counted within those that are used."""
        local = {d: i for i, d in enumerate(self.used)}
        return replace(
            self,
            subnet_device=tuple(local[d] for d in self.subnet_device),
            owner=tuple(local[d] for d in self.owner),
            recomputing=tuple(local[d] for d in self.recomputing if d in local),
        )


@dataclass(frozen=True, eq=False)
class CutRuns:
    """Layouts of a group of devices; what was searched once is remembered.

    Attributes:
        workload: model, partition, what trains; its largest micro-batch is the largest here.
        cluster: devices and links.
        group: indices of at least two devices, sorted.
        reserved_bytes: of every device's memory, for messages of sums.
        kept: what stays of the cut; None where it is to be searched.
    """

    workload: Workload
    cluster: Cluster
    group: tuple[int, ...]
    reserved_bytes: float
    kept: KeptCut | None = None
    _polished: dict[int, CutLayout] = field(default_factory=dict, repr=False)

    @cached_property
    def _spread(self) -> dict[int, CutLayout]:
        """By the samples that they were made for, rising; those that fit."""
        most = int(self.workload.samples.sum())
        numbers = np.unique(np.geomspace(1, most, NUM_PRICED).round().astype(int)).tolist()
        found = {n: self._best_waves(n) for n in numbers}
        return {n: layout for n, layout in found.items() if layout is not None}

    @property
    def layouts(self) -> dict[int, CutLayout]:
        """By the samples that they were made for, rising."""
        return dict(sorted({**self._spread, **self._polished}.items()))

    def made_for(self, num_samples: int) -> int:
        """The samples of the layout that so many are run in: the fewest of at least so many."""
        return next(n for n in self.layouts if n >= num_samples)

    def layout(self, num_samples: int) -> CutLayout:
        """That which so many samples are run in."""
        return self.layouts[self.made_for(num_samples)]

    def polish(self, num_samples: int) -> None:
        """Search thoroughly for the layout of so many samples, in as many waves as are known to be
        good and in half as many."""
        number = self.made_for(num_samples)
        known = self.layouts[number]
        ways = {()} if known.num_waves == 1 and not known.recomputing else {(), self.group}
        for recomputing in sorted(ways):
            for num_waves in {known.num_waves, max(1, known.num_waves // 2)}:
                found = self._best(number, num_waves, True, recomputing)
                if found is not None:
                    self.take(number, found)

    def take(self, num_samples: int, layout: CutLayout) -> bool:
        """Use a layout for so many samples, if it is the faster one, and say whether it is."""
        known = self.layouts.get(num_samples)
        if known is not None and known.total_s <= layout.total_s:
            return False
        self._polished[num_samples] = layout
        return True

    def of(self, load: Load) -> ReplicaRun:
        """Its run of a load."""
        most, layouts = load.num_samples, self.layouts
        num_blocks = self.workload.shape.num_blocks
        samples, one_kind = np.arange(most + 1), np.ones((num_blocks, 1))
        if not layouts:
            total_s = np.where(samples == 0, 0.0, np.inf)
            return ReplicaRun(total_s, np.zeros((1, most + 1)), one_kind, 0.0)
        flops = sample_flops(self.workload)
        part = flops.subnets(load) / flops.subnets(dense_load(self.workload, most))
        at = np.array([0, *layouts])
        seconds = [0.0, *(part * v.compute_s + v.messages_s for v in layouts.values())]
        total_s = np.interp(samples, at, seconds, right=np.inf)
        per_wave = np.array([1, *(v.most_per_wave for v in layouts.values())])
        made_for = np.minimum(np.searchsorted(at, samples), len(at) - 1)
        num_passes = -(-samples // per_wave[made_for])
        last_s = BACKWARD_SHARE * total_s / np.maximum(num_passes, 1) / num_blocks
        update_s = max(v.update_s for v in layouts.values())
        return ReplicaRun(total_s, last_s[None], one_kind, update_s)

    def _best_waves(self, num_samples: int) -> CutLayout | None:
        """The fastest layout of 1, 2, 4, ... waves, with devices computing forward again or not.

        More waves than memory asks for leave room for layouts that share work better; they are
        tried as long as that makes the step shorter.
        """
        once = self._doubled(num_samples, ())
        if once is not None and once.num_waves == 1:
            return once
        again = self._doubled(num_samples, self.group)
        found = [layout for layout in (once, again) if layout is not None]
        return min(found, key=lambda layout: layout.total_s, default=None)

    def _doubled(self, num_samples: int, recomputing: tuple[int, ...]) -> CutLayout | None:
        best, num_waves = None, 1
        while True:
            num_waves = min(num_waves, num_samples)
            found = self._best(num_samples, num_waves, False, recomputing)
            if best is not None and (found is None or found.total_s >= best.total_s):
                return best
            best = found
            if num_waves == num_samples or (best is not None and num_waves == 1):
                return best
            num_waves *= 2

    def _best(
        self, num_samples: int, num_waves: int, thorough: bool, recomputing: tuple[int, ...]
    ) -> CutLayout | None:
        """The fastest layout of those tried that fits; waves are priced by the first two. Devices
        that have room for all that backward needs do not compute forward again."""
        asked = (num_samples, num_waves, thorough, recomputing)
        if self.cluster.has_curves:
            return self.searched(*asked)
        largest = replace(
            self.workload, microbatch_samples=(max(self.workload.microbatch_samples),)
        )
        return _remembered(largest, self.cluster, self.group, self.reserved_bytes, self.kept, asked)

    def searched(
        self, num_samples: int, num_waves: int, thorough: bool, recomputing: tuple[int, ...]
    ) -> CutLayout | None:
        """`_best`, without a look at what is remembered."""
        wave = split_evenly(num_samples, num_waves)
        largest = max(self.workload.microbatch_samples)
        pieces = min(wave[-1], max(-(-wave[0] // largest), 2 * min(len(self.group), MAX_OWNERS)))
        priced_waves = min(num_waves, 2)
        samples = tuple(n for size in wave[:priced_waves] for n in split_evenly(size, pieces))
        workload = replace(self.workload, microbatch_samples=samples)
        step = DenseStep(workload, self.cluster, self.group, priced_waves, recomputing)
        later = (num_samples - sum(samples)) * input_bytes(self.workload)
        priced = [
            (step.seconds(counts, owner) - step.all_reduce_s(owner), counts, owner)
            for counts, owner in self._layouts(step, thorough, later)
        ]
        priced.sort(key=lambda found: found[0])
        for _, counts, owner in priced:
            if self._fits(step, counts, owner, later):
                fits = partial(self._fits, counts=counts, owner=owner, later_bytes=later)
                fewer = keeping_where_possible(step, counts, fits)
                return self._layout(fewer, counts, owner, num_waves, wave[0], pieces)
        return None

    def _layout(
        self,
        step: DenseStep,
        counts: np.ndarray,
        owner: tuple[int, ...],
        num_waves: int,
        most_per_wave: int,
        pieces: int,
    ) -> CutLayout:
        scale, local = num_waves / step.num_waves, {d: i for i, d in enumerate(self.group)}
        messages_s = _messages_s(step, counts, owner)
        update_s = step.update_s(counts, owner)
        compute_s = step.seconds(counts, owner) - messages_s - update_s - step.all_reduce_s(owner)
        placement = to_placement(step, counts, owner[:pieces])
        subnet_device = tuple(local[d] for d in placement.subnet_device)
        return CutLayout(
            num_waves,
            most_per_wave,
            subnet_device if self.kept is None else self.kept.subnet_device,
            owner[:pieces],
            tuple(local[d] for d in step.recomputing),
            scale * compute_s,
            scale * messages_s,
            update_s,
        )

    def _layouts(
        self, step: DenseStep, thorough: bool, later_bytes: float
    ) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
        if self.kept is not None:
            per_wave = step.workload.num_microbatches // step.num_waves
            owner = self.kept.in_turns(per_wave) * step.num_waves
            if self.kept.owners == set(owner):
                yield self.kept.counts(step), owner
            return
        if thorough:
            for layout in search_layouts(step, every_device=False, kept_share=1.0):
                if layout.num_active > 1:
                    yield layout.counts, _same_in_each_wave(step, layout.owner)
        everyone = range(step.num_devices)
        counts = spread(step, everyone)
        for owner in _owners(step):
            if counts is not None and self._fits(step, counts, owner, later_bytes):
                yield counts, owner
                continue
            reserved = self._reserved(step, owner, later_bytes)
            fitted = fitted_layouts(step, everyone, owner, 1.0, reserved_bytes=reserved)
            yield from ((v, owner) for v in fitted)

    def _fits(
        self, step: DenseStep, counts: np.ndarray, owner: tuple[int, ...], later_bytes: float
    ) -> bool:
        """Whether memory holds it and inputs of the waves that are not priced."""
        excess = excess_bytes(step, counts, owner, 1.0) + self._reserved(step, owner, later_bytes)
        return bool((excess <= 0).all())

    def _reserved(self, step: DenseStep, owner: tuple[int, ...], later_bytes: float) -> np.ndarray:
        """For messages of sums, and on owners for inputs of waves that are not priced, float
        ``[num_devices]``."""
        owned = np.bincount(owner, step.workload.samples, minlength=step.num_devices)
        return self.reserved_bytes + later_bytes * owned / owned.sum()


@lru_cache(maxsize=MOST_REMEMBERED)
def _remembered(
    workload: Workload,
    cluster: Cluster,
    group: tuple[int, ...],
    reserved_bytes: float,
    kept: KeptCut | None,
    asked: tuple[int, int, bool, tuple[int, ...]],
) -> CutLayout | None:
    """Searches of the same cluster, for other loads or budgets, come back to the same layouts."""
    return CutRuns(workload, cluster, group, reserved_bytes, kept).searched(*asked)


def _owners(step: DenseStep) -> Iterator[tuple[int, ...]]:
    """All micro-batches on the fastest device, or dealt to all by their speed, or evenly."""
    fast = devices_by_speed(step)
    yield (fast[0],) * step.workload.num_microbatches
    whole = step.block_counts.max(axis=0)
    speed = np.array([1 / step.lanes_s(d, whole).sum() for d in range(step.num_devices)])
    per_wave = step.workload.num_microbatches // step.num_waves
    if per_wave > 1:
        at = (np.arange(per_wave) + 0.5) / per_wave
        order = np.array(fast)
        bounds = np.cumsum(speed[order]) / speed.sum()
        chosen = order[np.searchsorted(bounds, at * (1 - 1e-12))]
        yield tuple(chosen.tolist()) * step.num_waves
        yield tuple(fast[i % len(fast)] for i in range(per_wave)) * step.num_waves


def _messages_s(step: DenseStep, counts: np.ndarray, owner: tuple[int, ...]) -> float:
    owned = step.owned_bytes(owner)
    active, repeats = np.unique(counts.any(axis=2), axis=0, return_counts=True)
    return sum(int(n) * step.exchange_s(on, owned) for on, n in zip(active, repeats, strict=True))


def _same_in_each_wave(step: DenseStep, owner: tuple[int, ...]) -> tuple[int, ...]:
    """The owners of the first wave's micro-batches, for every wave."""
    per_wave = step.workload.num_microbatches // step.num_waves
    return owner[:per_wave] * step.num_waves
