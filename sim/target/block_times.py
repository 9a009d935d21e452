"""Simulated seconds of single blocks under many schedules, priced as a step of `sim` is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.exchange import SUBLAYERS, Exchange
from d2ft_sched.costs.flops import attention_flops_of, mlp_flops_of, shared_factor_flops
from d2ft_sched.costs.memory_traffic import lane_bytes_of, shared_factor_bytes
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.lanes import LaneGroup, lane_groups
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.waves import wave_microbatches
from sim.network.exchange_time import exchange_seconds
from sim.work import LANE_KINDS


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
    def _waves(self) -> list[np.ndarray]:
        return wave_microbatches(self.workload.num_microbatches, self.num_waves)

    def _work(self, groups: Sequence[LaneGroup], device: int) -> np.ndarray:
        """FLOPs and bytes moved by lane groups, float ``[2, 2 sub-layers, 2 directions,
        num_groups]``."""
        workload, partition = self.workload, self.workload.partition
        heads, hidden, tokens = (
            np.array(
                [
                    [
                        partition.heads[list(g.subnets)].sum(),
                        partition.hidden[list(g.subnets)].sum(),
                        workload.tokens[list(g.microbatches)].sum(),
                    ]
                    for g in groups
                ],
                dtype=np.int64,
            )
            .reshape(-1, 3)
            .T
        )
        again = device in self.placement.recomputing
        moved = lane_bytes_of(workload, heads, hidden, tokens, recomputes=again)
        sublayers = (
            attention_flops_of(workload, heads, tokens, recomputes=again),
            mlp_flops_of(workload, hidden, tokens, recomputes=again),
        )
        flops = [[f.forward, f.backward] for f in sublayers]
        bytes_moved = [
            [moved.attention_forward, moved.attention_backward],
            [moved.mlp_forward, moved.mlp_backward],
        ]
        return np.array([flops, bytes_moved])

    def seconds(self, block: int, schedule: np.ndarray) -> float:
        """Lanes and messages of one block.

        Args:
            block: which.
            schedule: of the whole model, int8 ``[num_subnets, num_microbatches]``; only the block's
                rows are read.
        """
        return self.lanes_s(block, schedule) + self.messages_s(block, schedule)

    def lanes_s(self, block: int, schedule: np.ndarray) -> float:
        """The slowest device of every wave, direction and sub-layer, summed."""
        subnets = np.array(self.workload.partition.of_block(block))
        per_device = [
            self._device_lanes_s(block, device, schedule, subnets[self._device[subnets] == device])
            for device in np.unique(self._device[subnets]).tolist()
        ]
        return float(np.max(per_device, axis=0).sum())

    def _device_lanes_s(
        self, block: int, device: int, schedule: np.ndarray, held: np.ndarray
    ) -> np.ndarray:
        """Seconds of one device, float ``[num_waves, 2 directions, 2 sub-layers]``."""
        partition = self.workload.partition
        sizes = np.stack([partition.heads[held], partition.hidden[held]])
        key = (device, sizes.tobytes(), schedule[held].tobytes())
        if key not in self._lanes:
            mask = np.zeros(self.workload.num_subnets, dtype=bool)
            mask[held] = True
            seconds = np.zeros((len(self._waves), 2, len(SUBLAYERS)))
            for w, wave in enumerate(self._waves):
                groups = lane_groups(partition, schedule, block, mask, wave)
                work = self._work(groups, device)
                trained = np.array([g.operation == Operation.FULL for g in groups], dtype=bool)
                for direction in (0, 1):
                    for sublayer, kind in enumerate(LANE_KINDS[direction]):
                        flops, moved = work[:, sublayer, direction][:, trained | (direction == 0)]
                        seconds[w, direction, sublayer] = (
                            self.cluster.devices[device].seconds(kind, flops, moved).sum()
                        )
            if self.workload.lora is not None:
                seconds += self._shared_s(device, schedule, held)
            self._lanes[key] = seconds
        return self._lanes[key]

    def _shared_s(self, device: int, schedule: np.ndarray, held: np.ndarray) -> np.ndarray:
        """What adapters' shared factors add to `_device_lanes_s`."""
        workload, model = self.workload, self.cluster.devices[device]
        seconds = np.zeros((len(self._waves), 2, len(SUBLAYERS)))
        for sublayer, units in enumerate((workload.partition.heads, workload.partition.hidden)):
            maps_in = workload.shape.num_maps_in[sublayer]
            rows = schedule[held[units[held] > 0]]
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
