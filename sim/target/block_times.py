"""Simulated seconds of single blocks under many schedules, priced as a step of `sim` is."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.costs.exchange import SUBLAYERS, plan_exchange
from d2ft_sched.costs.flops import shared_factor_flops
from d2ft_sched.costs.lanes.lane_groups import groups_of_sites
from d2ft_sched.costs.lanes.lane_seconds import LANE_KINDS, lane_seconds
from d2ft_sched.costs.lanes.lane_traffic import shared_factor_bytes
from d2ft_sched.costs.memory import merging_devices
from d2ft_sched.deployment import Deployment
from d2ft_sched.schedule.lane_sites import LaneSites, lane_sites
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.waves import wave_microbatches
from sim.network.exchange_time import ExchangeTimes


@dataclass(frozen=True, eq=False)
class BlockTimes:
    """Prices lanes and messages of blocks; a device's lanes that are alike are cut once.

    The trunk is not in it: it takes the same time under every schedule. Where only adapters train,
    every block is priced as one that hands a gradient on.
    """

    deployment: Deployment

    @cached_property
    def _waves(self) -> list[np.ndarray]:
        deployment = self.deployment
        return wave_microbatches(deployment.workload.num_microbatches, deployment.num_waves)

    @cached_property
    def _times(self) -> ExchangeTimes:
        return ExchangeTimes(self.deployment.cluster)

    def seconds(self, schedules: np.ndarray) -> np.ndarray:
        """Lanes and messages of every block.

        Args:
            schedules: of the whole model, int8 ``[num_schedules, num_subnets, num_microbatches]``.

        Returns:
            float ``[num_blocks, num_schedules]``.
        """
        messages_s = [self._messages_s(schedule) for schedule in schedules]
        return self._lanes_s(schedules) + np.transpose(messages_s)

    def _lanes_s(self, schedules: np.ndarray) -> np.ndarray:
        """The slowest device of every wave, direction and sub-layer, summed."""
        workload, placement = self.deployment.workload, self.deployment.placement
        sites = lane_sites(workload, placement, np.arange(workload.num_subnets))
        seconds = np.zeros((len(schedules), workload.shape.num_blocks))
        first = np.flatnonzero(np.diff(sites.device, prepend=-1))
        for wave in self._waves:
            of_site = self._site_seconds(sites, schedules[..., wave], wave)
            slowest = np.zeros((len(schedules), workload.shape.num_blocks, *of_site.shape[2:]))
            for start, stop in zip(first, np.append(first[1:], len(sites.device)), strict=True):
                own = sites.block[start:stop]
                slowest[:, own] = np.maximum(slowest[:, own], of_site[:, start:stop])
            seconds += slowest.sum(axis=(2, 3))
        return seconds.T

    def _site_seconds(self, sites: LaneSites, in_wave: np.ndarray, wave: np.ndarray) -> np.ndarray:
        """Seconds of every block on every device that holds some of it, float
        ``[num_schedules, num_sites, 2 directions, 2 sub-layers]``."""
        operations = np.stack([sites.operations(schedule) for schedule in in_wave])
        size = np.concatenate([sites.device[:, None], sites.heads, sites.hidden], axis=1)
        kind = np.unique(size, axis=0, return_inverse=True)[1].ravel()  # rises with the device
        flat = operations.reshape(-1, operations[0, 0].size)
        key = np.column_stack([np.tile(kind, len(in_wave)), flat])
        _, example, which = np.unique(key, axis=0, return_index=True, return_inverse=True)
        distinct = sites.select(example % len(kind))
        cells = flat[example].reshape(-1, *operations.shape[2:])
        seconds = self._distinct_seconds(distinct, cells, wave)
        return seconds[which.ravel()].reshape(*operations.shape[:2], *seconds.shape[1:])

    def _distinct_seconds(
        self, sites: LaneSites, operations: np.ndarray, wave: np.ndarray
    ) -> np.ndarray:
        workload, placement = self.deployment.workload, self.deployment.placement
        devices = self.deployment.cluster.devices
        groups = groups_of_sites(
            workload,
            placement,
            sites,
            operations,
            np.ones((len(operations), len(SUBLAYERS)), dtype=bool),
            wave,
            merging_devices(workload, placement, devices),
        )
        seconds = np.zeros((len(operations), 2, len(SUBLAYERS)))
        np.add.at(
            seconds, groups.site, lane_seconds(workload, devices, groups.sizes).T.swapaxes(1, 2)
        )
        if workload.lora is not None:
            seconds += self._shared_s(sites, operations, workload.tokens[wave])
        return seconds

    def _shared_s(
        self, sites: LaneSites, operations: np.ndarray, tokens_of: np.ndarray
    ) -> np.ndarray:
        """What adapters' shared factors add to the lanes of every site."""
        workload, devices = self.deployment.workload, self.deployment.cluster.devices
        seconds = np.zeros((len(operations), 2, len(SUBLAYERS)))
        for sublayer, units in enumerate((sites.heads, sites.hidden)):
            maps_in = workload.shape.num_maps_in[sublayer]
            has_units = (units > 0)[:, :, None]
            for direction, chosen in enumerate(
                (operations != Operation.SHORTCUT, operations == Operation.FULL)
            ):
                tokens = (chosen & has_units).any(axis=1) @ tokens_of
                flops = shared_factor_flops(workload, maps_in, tokens, tokens, tokens, tokens)
                moved = shared_factor_bytes(workload, maps_in, tokens, tokens, tokens)
                for device in np.unique(sites.device).tolist():
                    own = sites.device == device
                    seconds[own, direction, sublayer] = devices[device].seconds(
                        LANE_KINDS[direction][sublayer],
                        (flops.forward, flops.backward)[direction][own],
                        moved[direction][own],
                    )
        return seconds

    def _messages_s(self, schedule: np.ndarray) -> np.ndarray:
        """All dispatches and combines of every block, float ``[num_blocks]``."""
        workload, placement = self.deployment.workload, self.deployment.placement
        num_blocks = workload.shape.num_blocks
        seconds = np.zeros(num_blocks)
        for wave in self._waves:
            in_wave = np.zeros_like(schedule)
            in_wave[:, wave] = schedule[:, wave]
            exchange = plan_exchange(workload, placement, in_wave)
            for direction in (0, 1):
                dispatches = [exchange.dispatch_bytes(direction, b) for b in range(num_blocks)]
                for way in (dispatches, [dispatch.T for dispatch in dispatches]):
                    seconds += len(SUBLAYERS) * np.array(self._times.seconds_of_each(way))
        return seconds
