"""Simulated seconds of single blocks under many schedules, priced as a step of `sim` is."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import SUBLAYERS, Exchange
from d2ft_sched.costs.flops import shared_factor_flops
from d2ft_sched.costs.lane_groups import groups_of_sites
from d2ft_sched.costs.lane_seconds import LANE_KINDS, lane_seconds
from d2ft_sched.costs.lane_traffic import shared_factor_bytes
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lane_sites import sites_of_rows
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.waves import wave_microbatches
from sim.network.exchange_time import exchange_seconds


@dataclass(frozen=True, eq=False)
class BlockTimes:
    """Prices a block's lanes and messages; what was priced once is remembered.

    The trunk is not in it: it takes the same time under every schedule. Where only adapters train,
    every block is priced as one that hands a gradient on.
    """

    workload: Workload
    cluster: Cluster
    placement: Placement
    num_waves: int = 1
    _lanes: dict[tuple[int, bytes, bytes], np.ndarray] = field(default_factory=dict, repr=False)
    _messages: dict[bytes, float] = field(default_factory=dict, repr=False)

    @cached_property
    def _device(self) -> np.ndarray:
        return np.array(self.placement.subnet_device)

    @cached_property
    def _merging(self) -> tuple[Device | None, ...]:
        return merging_devices(self.workload, self.placement, self.cluster.devices)

    @cached_property
    def _waves(self) -> list[np.ndarray]:
        return wave_microbatches(self.workload.num_microbatches, self.num_waves)

    def seconds(self, schedules: np.ndarray) -> np.ndarray:
        """Lanes and messages of every block, float ``[num_schedules, num_blocks]``.

        Args:
            schedules: int8 ``[num_schedules, num_subnets, num_microbatches]``; of blocks alone, so
                that a block's time is the same whatever the others do.
        """
        self._price_lanes(schedules)
        return np.array(
            [
                [
                    self._lanes_s(block, schedule) + self.messages_s(block, schedule)
                    for block in range(self.workload.shape.num_blocks)
                ]
                for schedule in schedules
            ]
        )

    def _lanes_s(self, block: int, schedule: np.ndarray) -> float:
        """The slowest device of every wave, direction and sub-layer, summed."""
        per_device = [
            self._lanes[self._key(device, schedule[held], held)]
            for device, held in self._held[block]
        ]
        return float(np.max(per_device, axis=0).sum())

    @cached_property
    def _held(self) -> list[list[tuple[int, np.ndarray]]]:
        """Devices of every block, and the subnets of it that each holds."""
        blocks = range(self.workload.shape.num_blocks)
        subnets_of = [np.array(self.workload.partition.of_block(block)) for block in blocks]
        return [
            [(d, subnets[self._device[subnets] == d]) for d in np.unique(self._device[subnets])]
            for subnets in subnets_of
        ]

    def _key(self, device: int, rows: np.ndarray, held: np.ndarray) -> tuple[int, bytes, bytes]:
        """The same for blocks that take a device the same time."""
        partition = self.workload.partition
        sizes = np.stack([partition.heads[held], partition.hidden[held]])
        return device, sizes.tobytes(), rows.tobytes()

    def _price_lanes(self, schedules: np.ndarray) -> None:
        """Seconds of each device that are not known, all at once."""
        new: dict[tuple[int, bytes, bytes], tuple[int, np.ndarray, np.ndarray]] = {}
        for schedule in schedules:
            for device, held in (of_device for block in self._held for of_device in block):
                rows = schedule[held]
                key = self._key(device, rows, held)
                if key not in self._lanes:
                    new.setdefault(key, (device, held, rows))
        if not new:
            return
        keys = sorted(new)
        devices = np.array([new[key][0] for key in keys])
        most = max(len(new[key][1]) for key in keys)
        rows = np.full((len(keys), most), -1)
        operations = np.zeros((len(keys), most, schedules.shape[2]), dtype=np.int8)
        for i, key in enumerate(keys):
            _, held, own = new[key]
            rows[i, : len(held)], operations[i, : len(held)] = held, own
        sites = sites_of_rows(self.workload.partition, self.placement, rows, devices)
        seconds = np.zeros((len(keys), len(self._waves), 2, len(SUBLAYERS)))
        for w, wave in enumerate(self._waves):
            groups = groups_of_sites(
                self.workload,
                self.placement,
                sites,
                operations[:, :, wave],
                wave,
                np.ones((len(keys), len(SUBLAYERS)), dtype=bool),
                self._merging,
            )
            of_each = lane_seconds(self.workload, self.cluster.devices, groups.sizes)
            np.add.at(seconds[:, w], groups.site, of_each.transpose(2, 0, 1))
        for key, own in zip(keys, seconds, strict=True):
            shared = 0.0 if self.workload.lora is None else self._shared_s(*new[key])
            self._lanes[key] = own + shared

    def _shared_s(self, device: int, held: np.ndarray, operations: np.ndarray) -> np.ndarray:
        """What adapters' shared factors add to the lanes of a device, float
        ``[num_waves, 2 directions, 2 sub-layers]``."""
        workload, model = self.workload, self.cluster.devices[device]
        seconds = np.zeros((len(self._waves), 2, len(SUBLAYERS)))
        for sublayer, units in enumerate((workload.partition.heads, workload.partition.hidden)):
            maps_in = workload.shape.num_maps_in[sublayer]
            rows = operations[units[held] > 0]
            for direction, chosen in enumerate(
                (rows != Operation.SHORTCUT, rows == Operation.FULL)
            ):
                of_all = np.where(chosen.any(axis=0), workload.tokens, 0)
                tokens = np.array([of_all[wave].sum() for wave in self._waves])
                flops = shared_factor_flops(workload, maps_in, tokens, tokens, tokens, tokens)
                seconds[:, direction, sublayer] = model.seconds(
                    LANE_KINDS[direction][sublayer],
                    (flops.forward, flops.backward)[direction],
                    shared_factor_bytes(workload, maps_in, tokens, tokens, tokens)[direction],
                )
        return seconds

    def messages_s(self, block: int, schedule: np.ndarray) -> float:
        """All dispatches and combines of the block."""
        subnets = np.array(self.workload.partition.of_block(block))
        rows, device = schedule[subnets], self._device[subnets]
        active = np.zeros((2, 1, self.placement.num_devices, rows.shape[1]), dtype=bool)
        np.logical_or.at(active[0, 0], device, rows != Operation.SHORTCUT)
        np.logical_or.at(active[1, 0], device, rows == Operation.FULL)
        return sum(
            self._direction_s(active[direction, 0], wave)
            for wave in self._waves
            for direction in (0, 1)
        )

    def _direction_s(self, active: np.ndarray, wave: np.ndarray) -> float:
        in_wave = np.zeros(active.shape[1], dtype=bool)
        in_wave[wave] = True
        active = active & in_wave
        key = active.tobytes()
        if key not in self._messages:
            exchange = Exchange(
                active=active[None, None],
                message_bytes=self.workload.activation_bytes.astype(np.int64),
                owner=np.array(self.placement.owner),
            )
            dispatch = exchange.dispatch_bytes(0, 0)
            both_s = exchange_seconds(self.cluster, dispatch) + exchange_seconds(
                self.cluster, dispatch.T
            )
            self._messages[key] = len(SUBLAYERS) * both_s
        return self._messages[key]
