"""Steps of any replicas under any load in closed form: what the search over ways compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.gradient_sums import GradientSum, gradient_sums
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved
from d2ft_sched.files.sizes import MOST_SAMPLES, check_at_most
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import PassMemory, on_one_device, pass_seconds, split_evenly, whole
from sim.dense.shares import level_shares
from sim.ways.estimate.cut_runs import CutRuns
from sim.ways.estimate.deal import Dealt, ReplicaLayout, deal, load_schedule
from sim.ways.estimate.kept_cut import KeptCut
from sim.ways.estimate.kinds import device_kinds, nameless
from sim.ways.estimate.load import Load
from sim.ways.estimate.runs import DeviceRuns, ReplicaRun, device_runs
from sim.ways.estimate.sums import GradientSumTimes

Groups = tuple[tuple[int, ...], ...]
"""Devices of each replica, sorted, in the order of their first."""

MOST_REMEMBERED = 10_000_000
"""Prices of replicas by their samples that are kept, 8 bytes each."""


@dataclass(frozen=True)
class Levelled:
    """Replicas with level shares.

    Attributes:
        groups: devices of each replica.
        shares: samples of each, at least 1.
        load: what they do together.
        step_s: estimated seconds of the step.
    """

    groups: Groups
    shares: tuple[int, ...]
    load: Load
    step_s: float


@dataclass(frozen=True, eq=False)
class WaySteps:
    """Steps of one mini-batch on a cluster; what was priced once is remembered.

    A step is the slowest replica's forward and backward, what of the sums backward could not hide,
    and the slowest update. Replicas run their shares in the fewest passes that memory holds.

    Attributes:
        workload: model, partition, what trains; its largest micro-batch is the largest of any way.
        cluster: devices and links.
        kept: replicas that stay as they are: each of their owners gets a sample at least.
    """

    workload: Workload
    cluster: Cluster
    kept: Mapping[tuple[int, ...], KeptCut] = field(default_factory=dict)
    _devices: dict[tuple[Device, bool], DeviceRuns] = field(default_factory=dict, repr=False)
    _cuts: dict[tuple[int, ...], CutRuns] = field(default_factory=dict, repr=False)
    _cuts_alike: dict[object, CutRuns] = field(default_factory=dict, repr=False)
    _runs: dict[tuple[int, Load], ReplicaRun] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises InputError for more samples than can be dealt one by one."""
        total = self.num_samples
        check_at_most(f"{total} samples of a mini-batch", total, MOST_SAMPLES, "take fewer")

    @cached_property
    def num_samples(self) -> int:
        return int(self.workload.samples.sum())

    @cached_property
    def sums(self) -> GradientSumTimes:
        return GradientSumTimes(self.workload, self.cluster)

    @cached_property
    def device_kinds(self) -> tuple[Device, ...]:
        """Every device without its name, the same for all that compute alike."""
        return tuple(nameless(device) for device in self.cluster.devices)

    def alike(self, device: int) -> tuple[int, float]:
        """The same for devices that compute alike and whose own links are as wide."""
        return self._alike[device]

    @cached_property
    def _alike(self) -> list[tuple[int, float]]:
        bandwidth = self.cluster.device_bandwidth_bytes_per_s().tolist()
        return list(zip(device_kinds(self.cluster).tolist(), bandwidth, strict=True))

    @cached_property
    def device_speed(self) -> np.ndarray:
        """Samples per second of every device in passes of one micro-batch, whatever its memory,
        float ``[num_devices]``."""
        size = max(self.workload.microbatch_samples)
        seconds = {
            kind: pass_seconds(self.workload, kind, (size,), is_trial=True).total_s[0]
            for kind in set(self.device_kinds)
        }
        return np.array([size / seconds[kind] for kind in self.device_kinds])

    @cached_property
    def _memory(self) -> tuple[PassMemory, PassMemory]:
        """Of passes where forward is computed once, and where it is computed again."""
        return PassMemory(self.workload), PassMemory(self.workload, recomputes=True)

    @cached_property
    def _update(self) -> tuple[float, np.ndarray]:
        """Bytes that the update of the whole model moves, and the part of every block and, at last,
        of the trunk."""
        one = whole(self.workload, (1,))
        values = np.append(
            np.full(one.shape.num_blocks, self.sums.block_values), self.sums.trunk_values.sum()
        )
        return float(optimizer_bytes_moved(one, on_one_device(one))[0]), values / values.sum()

    def device_runs(self, device: int, is_shared: bool) -> DeviceRuns:
        """Runs of a device alone with the model.

        Args:
            device: its index.
            is_shared: whether there are other replicas, so that messages of sums need memory.
        """
        key = (self.device_kinds[device], is_shared)
        if key not in self._devices:
            update_bytes, update_share = self._update
            update_s = float(key[0].seconds(WorkKind.OPTIMIZER, 0.0, update_bytes, is_trial=True))
            self._devices[key] = device_runs(
                self.workload,
                key[0],
                self.num_samples,
                reserved_bytes=self.sums.largest_bytes if is_shared else 0.0,
                update_s=update_s,
                update_share=update_share,
                memory=self._memory,
            )
        return self._devices[key]

    def cut_runs(self, group: tuple[int, ...]) -> CutRuns:
        """Layouts of a group of devices, with room for the messages of sums; the same for groups
        of devices that compute and are linked alike."""
        if group not in self._cuts:
            bandwidth, latency_s = self._paths
            here = np.ix_(group, group)
            kept = self.kept.get(group)
            alike = (
                kept,
                tuple(self.alike(d) for d in group),
                bandwidth[here].tobytes(),
                latency_s[here].tobytes(),
            )
            if alike not in self._cuts_alike:
                self._cuts_alike[alike] = CutRuns(
                    self.workload, self.cluster, group, self.sums.largest_bytes, kept
                )
            self._cuts[group] = self._cuts_alike[alike]
        return self._cuts[group]

    @cached_property
    def _paths(self) -> tuple[np.ndarray, np.ndarray]:
        return self.cluster.path_bandwidth_bytes_per_s(), self.cluster.path_latency_s()

    def run(self, group: tuple[int, ...], load: Load, is_shared: bool) -> ReplicaRun:
        """A replica by its samples."""
        alone = len(group) == 1
        runs = self.device_runs(group[0], is_shared) if alone else self.cut_runs(group)
        key = (id(runs), load)
        if key not in self._runs:
            if len(self._runs) * load.num_samples > MOST_REMEMBERED:
                self._runs.clear()
            self._runs[key] = runs.of(load)
        return self._runs[key]

    def polish(self, groups: Groups, shares: Sequence[int]) -> None:
        """Search thoroughly for the layouts of cut replicas with such shares."""
        for group, share in zip(groups, shares, strict=True):
            if len(group) > 1:
                self.cut_runs(group).polish(share)
                self._forget(self.cut_runs(group))

    def _forget(self, runs: CutRuns) -> None:
        """Price replicas anew whose layouts have changed."""
        for key in [key for key in self._runs if key[0] == id(runs)]:
            del self._runs[key]

    def _in_use(self, groups: Groups, shares: Sequence[int]) -> Groups:
        """The devices of replicas without those that a cut leaves empty; the cut is then known for
        the others."""
        used: list[tuple[int, ...]] = []
        for group, share in zip(groups, shares, strict=True):
            members = group
            if len(group) > 1:
                runs = self.cut_runs(group)
                layout = runs.layout(share)
                members = tuple(group[d] for d in layout.used)
                if 1 < len(members) < len(group):
                    smaller = self.cut_runs(members)
                    if smaller.take(runs.made_for(share), layout.of_used()):
                        self._forget(smaller)
            used.append(members)
        return tuple(sorted(used))

    def level(self, groups: Groups, load: Load, below_s: float = float("inf")) -> Levelled | None:
        """The step with level shares; replicas that get nothing and devices that a cut leaves empty
        are left out, and shares levelled again.

        Args:
            groups: devices of each replica.
            load: what they do together.
            below_s: what a step has to stay below to be of interest.

        Returns:
            None where memory cannot hold it, or it cannot stay below.
        """
        while True:
            runs = [self.run(group, load, len(groups) > 1) for group in groups]
            are_whole = all(len(group) == 1 for group in groups)
            ends_s = np.array([run.total_s for run in runs])
            at_least = self._at_least(groups)
            least = level_shares(ends_s, load.num_samples, at_least)
            if least is None or ends_s[np.arange(len(least)), least].max() >= below_s:
                return None
            if are_whole:
                members = tuple(group[0] for group in groups)
                ends_s = _ends_s(runs, self.sums.after_blocks_s(members, load.trained_part))
            shares = level_shares(ends_s, load.num_samples, at_least)
            if shares is None:
                return None
            dealt = [(g, n) for g, n in zip(groups, shares.tolist(), strict=True) if n]
            used = self._in_use(*zip(*dealt, strict=True))
            if used == groups:
                break
            groups = used
        if max(run.total_s[n] for run, n in zip(runs, shares, strict=True)) >= below_s:
            return None
        found = self._priced(groups, tuple(shares.tolist()), load, runs)
        if are_whole or len(groups) == 1:
            return found
        after_s = self.sums.after_blocks_of_s(
            self._gradient_sums(groups, found.shares, load), len(load.trained_part)
        )
        again = level_shares(_ends_s(runs, after_s), load.num_samples, at_least)
        if again is None or (again == shares).all() or not again.all():
            return found
        other = self._priced(groups, tuple(again.tolist()), load, runs)
        return min(found, other, key=lambda one: one.step_s)

    def _at_least(self, groups: Groups) -> np.ndarray:
        """Samples that each replica gets in any case, int ``[num_replicas]``."""
        return np.array([len(self.kept[g].owners) if g in self.kept else 0 for g in groups])

    def priced(self, groups: Groups, shares: Sequence[int], load: Load) -> Levelled:
        """The step with given shares, at least 1 each."""
        runs = [self.run(group, load, len(groups) > 1) for group in groups]
        return self._priced(groups, tuple(shares), load, runs)

    def _priced(
        self, groups: Groups, shares: tuple[int, ...], load: Load, runs: Sequence[ReplicaRun]
    ) -> Levelled:
        done_s = np.max([run.done_s(n) for run, n in zip(runs, shares, strict=True)], axis=0)
        if all(len(group) == 1 for group in groups):
            members = tuple(group[0] for group in groups)
            after_s = self.sums.after_blocks_s(members, load.trained_part)
            end_s = float((done_s + after_s).max())
        else:
            end_s = self.sums.end_s(self._gradient_sums(groups, shares, load), done_s)
        return Levelled(groups, shares, load, end_s + max(run.update_s for run in runs))

    def _gradient_sums(
        self, groups: Groups, shares: Sequence[int], load: Load
    ) -> tuple[GradientSum, ...]:
        dealt = self.deal(groups, shares)
        return gradient_sums(dealt.workload, dealt.replicas, load_schedule(dealt, load))

    def deal(self, groups: Groups, shares: Sequence[int]) -> Dealt:
        """Micro-batches and replicas of given shares.

        Args:
            groups: devices of each replica.
            shares: samples that each runs, at least 1.
        """
        layouts = [
            self.layout(group, share, len(groups) > 1)
            for group, share in zip(groups, shares, strict=True)
        ]
        return deal(self.workload, len(self.cluster.devices), layouts)

    def layout(self, group: tuple[int, ...], share: int, is_shared: bool) -> ReplicaLayout:
        """How a replica runs its share, in micro-batches no larger than the mini-batch's largest;
        one sample at a time where its memory does not suffice."""
        if len(group) == 1:
            runs = self.device_runs(group[0], is_shared)
            num_passes = int(runs.num_passes[share]) or share
            recomputing = group if runs.recomputes[share] else ()
            pass_samples = split_evenly(share, num_passes)
            pieces = -(-pass_samples[0] // max(self.workload.microbatch_samples))
            subnet_device = (group[0],) * self.workload.num_subnets
            return ReplicaLayout(subnet_device, (group[0],) * pieces, pass_samples, recomputing)
        cut = self.cut_runs(group).layout(share)
        num_passes = -(-share // cut.most_per_wave)
        return ReplicaLayout(
            tuple(group[d] for d in cut.subnet_device),
            tuple(group[d] for d in cut.owner),
            split_evenly(share, num_passes),
            tuple(group[d] for d in cut.recomputing),
        )


def _ends_s(runs: Sequence[ReplicaRun], after_s: np.ndarray) -> np.ndarray:
    """`ReplicaRun.ends_s` of each, float ``[num_replicas, num_samples + 1]``."""
    known = {id(run): run.ends_s(after_s) for run in runs}
    return np.array([known[id(run)] for run in runs])
