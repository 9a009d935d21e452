"""The whole model on several devices, each with samples of its own (PyTorch DDP, arXiv 2006.15704).

Every device runs its share in the fewest passes that its memory holds. While the last pass goes
backward, the gradients of each block are summed around a ring as soon as all devices have them, one
block after another; those of the embedding come last. Sums do not slow computation down. Then every
device updates its copy. It is the step that `sim.step.simulate_replicas` has for these devices, in
closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.gradient_sums import EMBEDDING, gradient_sums
from d2ft_sched.costs.memory import DeviceMemory
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.device_alone import DeviceRun, device_alone, seconds_by_samples
from sim.dense.memory_passes import PassMemory, whole
from sim.dense.shares import level_shares
from sim.network.collectives import AllReduce, all_reduce
from sim.network.exchange_time import ExchangeTimes
from sim.prediction import TOGETHER, Phase, Prediction
from sim.step import gradient_sum
from sim.timetable import UPDATE, timetable

MAX_EXHAUSTIVE = 6
"""Devices up to which all sets of them are tried."""
MAX_TRIED = 24
"""Sets that are tried of each order of more devices."""


@dataclass(frozen=True)
class DataParallel:
    """A data-parallel step and who does what in it.

    Attributes:
        members: indices of the devices that take part, rising.
        shares: samples of each of them.
        runs: what each of them runs.
        prediction: the step on the cluster.
    """

    members: tuple[int, ...]
    shares: tuple[int, ...]
    runs: tuple[DeviceRun, ...]
    prediction: Prediction


def gradient_buckets(workload: Workload) -> tuple[tuple[int, float], ...]:
    """Block and bytes of the gradients that are summed together, in the order in which backward
    makes them; see `d2ft_sched.costs.gradient_sums`."""
    two = whole(workload, (1, 1))
    replicas = [Replica(Placement(2, (d,) * two.num_subnets, (d,))) for d in (0, 1)]
    dense = uniform_schedule(two.num_subnets, two.num_microbatches, Operation.FULL)
    return tuple(
        (one.block, float(one.num_values * two.parameter_bytes))
        for one in gradient_sums(two, replicas, dense)
    )


@dataclass(frozen=True, eq=False)
class DataParallelSteps:
    """Data-parallel steps of one mini-batch on a cluster; what was priced once is remembered.

    Attributes:
        workload: the model, what trains, the optimizer, and by its micro-batches how many samples
            there are; how they are cut does not count, nor does the partition.
        cluster: devices and links.
    """

    workload: Workload
    cluster: Cluster
    _seconds: dict[tuple[Device, float], np.ndarray] = field(default_factory=dict, repr=False)
    _runs: dict[tuple[Device, float, int], DeviceRun] = field(default_factory=dict, repr=False)
    _sums: dict[tuple[tuple[int, ...], float], AllReduce] = field(default_factory=dict, repr=False)

    @cached_property
    def num_samples(self) -> int:
        return int(self.workload.samples.sum())

    @cached_property
    def _buckets(self) -> tuple[tuple[int, float], ...]:
        return gradient_buckets(self.workload)

    @cached_property
    def _times(self) -> ExchangeTimes:
        return ExchangeTimes(self.cluster)

    @cached_property
    def _memory(self) -> PassMemory:
        return PassMemory(self.workload)

    def _reserved_bytes(self, num_members: int) -> float:
        """Messages of a ring on their way: a part sent and a part received."""
        most = max(size for _, size in self._buckets)
        return 2 * most / num_members if num_members > 1 else 0.0

    def seconds(self, device: int, num_members: int) -> np.ndarray:
        """`seconds_by_samples` of a device that is one of so many, ``[num_samples + 1]``."""
        reserved_bytes = self._reserved_bytes(num_members)
        key = (_nameless(self.cluster.devices[device]), reserved_bytes)
        if key not in self._seconds:
            self._seconds[key] = seconds_by_samples(
                self.workload,
                key[0],
                self.num_samples,
                reserved_bytes=reserved_bytes,
                memory=self._memory,
            )
        return self._seconds[key]

    def shares(self, members: Sequence[int]) -> np.ndarray | None:
        """Samples of each of these devices, by which the last of them to end backward does so
        earliest, int ``[num_members]``; None where their memory cannot hold them all."""
        return level_shares(
            np.array([self.seconds(d, len(members)) for d in members]), self.num_samples
        )

    def step(self, members: Sequence[int], shares: Sequence[int]) -> DataParallel:
        """The step of some devices with given shares.

        Args:
            members: indices of the devices, rising; at least one.
            shares: samples of each, at least 1; all of the mini-batch together.

        Raises:
            InputError: shares do not add up, or one has nothing to do.
        """
        if len(shares) != len(members) or min(shares) < 1 or sum(shares) != self.num_samples:
            raise InputError(
                f"data parallel: shares of {len(members)} devices are {list(shares)}; each needs "
                f"at least 1 of the {self.num_samples} samples, all of them together"
            )
        reserved_bytes = self._reserved_bytes(len(members))
        runs = [
            self._run(d, reserved_bytes, share) for d, share in zip(members, shares, strict=True)
        ]
        sums = [self._sum(tuple(members), size) for _, size in self._buckets]
        phases = _phases(runs, self._buckets, sums, members, len(self.cluster.devices))
        prediction = Prediction(
            cluster=self.cluster,
            phases=timetable(self.cluster, phases, overlap=False),
            flops=sum(run.flops for run in runs),
            memory=_memory_of(runs, members, sums),
        )
        return DataParallel(tuple(members), tuple(shares), tuple(runs), prediction)

    def best(self, least_members: int = 1) -> DataParallel | None:
        """The devices and shares whose step takes the least time, of at least so many devices; None
        where memory or samples suffice for fewer only.

        Of up to `MAX_EXHAUSTIVE` devices all sets are tried. Of more, those that come first by two
        orders: by the step of each alone, and by that of each beside the fastest.
        """
        levelled = (self._levelled(members) for members in self._tried_sets())
        return min(
            (found for found in levelled if found and len(found.members) >= least_members),
            key=lambda found: (found.prediction.step_s, len(found.members)),
            default=None,
        )

    def _levelled(self, members: Sequence[int]) -> DataParallel | None:
        """The step with level shares; devices that get nothing are left out, and shares levelled
        again."""
        shares = self.shares(members)
        if shares is None:
            return None
        if not shares.all():
            return self._levelled([d for d, n in zip(members, shares, strict=True) if n])
        return self.step(members, shares.tolist())

    def _tried_sets(self) -> list[tuple[int, ...]]:
        able = [
            d
            for d in range(len(self.cluster.devices))
            if np.isfinite(self.seconds(d, 1)[1:2]).all()
        ]
        if len(able) <= MAX_EXHAUSTIVE:
            sizes = range(1, len(able) + 1)
            return [members for k in sizes for members in combinations(able, k)]
        alone = sorted(able, key=lambda d: float(self.seconds(d, 1)[-1]))
        beside = {d: self._levelled(sorted((alone[0], d))) for d in alone[1:]}
        by_pair = sorted(
            alone[1:],
            key=lambda d: np.inf if (pair := beside[d]) is None else pair.prediction.step_s,
        )
        sizes = np.unique(np.geomspace(1, len(able), MAX_TRIED).round().astype(int)).tolist()
        orders = (alone, [alone[0], *by_pair])
        return list({tuple(sorted(order[:k])): None for order in orders for k in sizes})

    def _run(self, device: int, reserved_bytes: float, share: int) -> DeviceRun:
        key = (_nameless(self.cluster.devices[device]), reserved_bytes, share)
        if key not in self._runs:
            self._runs[key] = device_alone(
                self.workload,
                self.cluster.devices[device],
                share,
                reserved_bytes=reserved_bytes,
                memory=self._memory,
            )
        return replace(self._runs[key], device=self.cluster.devices[device])

    def _sum(self, members: tuple[int, ...], size_bytes: float) -> AllReduce:
        key = (members, size_bytes)
        if key not in self._sums:
            self._sums[key] = all_reduce(self._times, members, size_bytes)
        return self._sums[key]


def _nameless(device: Device) -> Device:
    """The same for all devices that compute alike."""
    return replace(
        device, name="any", price_per_hour=None, power_w=None, idle_power_w=None, source=""
    )


def _phases(
    runs: Sequence[DeviceRun],
    buckets: Sequence[tuple[int, float]],
    sums: Sequence[AllReduce],
    members: Sequence[int],
    num_devices: int,
) -> list[Phase]:
    """In the order of issue; every device is a replica."""

    def of(device: int, block: int, direction: str, seconds: float) -> Phase:
        on_device = np.zeros(num_devices)
        on_device[device] = seconds
        name = "passes" if block < 0 else "backward"
        return Phase(0, direction, block, name, 0.0, seconds, on_device, replica=device)

    last = [run.passes.backward_block_s(-1) for run in runs]
    phases = [
        of(device, -1, "forward", float(run.passes.total_s.sum() - own.sum()))
        for device, run, own in zip(members, runs, last, strict=True)
    ]
    num_blocks = len(last[0])
    for block in range(num_blocks - 1, EMBEDDING - 1, -1):
        if block > EMBEDDING:
            phases += [
                of(device, block, "backward", float(own[block]))
                for device, own in zip(members, last, strict=True)
            ]
        phases += [
            gradient_sum(bucket, num_blocks, one, wave=0)
            for (bucket, _), one in zip(buckets, sums, strict=True)
            if min(bucket, num_blocks - 1) == block and one.seconds
        ]
    update_s = np.zeros(num_devices)
    update_s[list(members)] = [run.update_s for run in runs]
    most_s = float(update_s.max())
    phases.append(Phase(0, UPDATE, -1, "optimizer", 0.0, most_s, update_s, replica=TOGETHER))
    return phases


def _memory_of(
    runs: Sequence[DeviceRun], members: Sequence[int], sums: Sequence[AllReduce]
) -> DeviceMemory:
    """Memory of each run, and the messages of the fullest ring on their way."""
    buffer_bytes = np.max([one.buffer_bytes for one in sums], axis=0)
    by_purpose = {name: np.zeros(len(buffer_bytes)) for name in vars(runs[0].memory)}
    for name, on_device in by_purpose.items():
        on_device[list(members)] = [getattr(run.memory, name)[0] for run in runs]
    by_purpose["exchange_buffers"] = buffer_bytes
    by_purpose["total"] = by_purpose["total"] + buffer_bytes
    return DeviceMemory(**by_purpose)
