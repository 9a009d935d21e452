"""When the sums of gradients end that follow the last pass backward, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.gradient_sums import EMBEDDING, GradientSum, trained_trunk_values
from d2ft_sched.costs.parameters import trained_shared_parameters, trained_subnet_parameters
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import whole
from sim.network.collectives import all_reduce
from sim.network.exchange_time import ExchangeTimes, channel_seconds, link_loads


@dataclass(frozen=True, eq=False)
class GradientSumTimes:
    """Seconds of sums on one cluster, each distinct one computed once.

    Attributes:
        workload: model and what trains.
        cluster: devices and links.
    """

    workload: Workload
    cluster: Cluster
    _known: dict[tuple[tuple[int, ...], int], float] = field(default_factory=dict, repr=False)
    _used: dict[tuple[int, ...], list[int]] = field(default_factory=dict, repr=False)

    @cached_property
    def _times(self) -> ExchangeTimes:
        return ExchangeTimes(self.cluster)

    @cached_property
    def trunk_values(self) -> np.ndarray:
        """See `trained_trunk_values`, int ``[num_blocks + 2]``."""
        return trained_trunk_values(self.workload)

    @cached_property
    def block_values(self) -> int:
        """Values of a block's subnets and what they share that train."""
        one = whole(self.workload, (1,))
        return int(trained_subnet_parameters(one)[0]) + trained_shared_parameters(one)

    def _trained_values(self, trained_part: Sequence[float]) -> np.ndarray:
        """Of `block_values`, what trains: of subnets that do, and all that a block shares where
        any does; int ``[num_blocks]``."""
        part, shared = np.array(trained_part), trained_shared_parameters(self.workload)
        own = np.rint(part * (self.block_values - shared)).astype(np.int64)
        return np.where(part > 0, own + shared, 0)

    @cached_property
    def largest_bytes(self) -> float:
        """Of any bucket of a block or of the trunk."""
        largest = max(self.block_values + self.trunk_values[0], self.trunk_values.max())
        return float(largest * self.workload.parameter_bytes)

    def seconds(self, members: tuple[int, ...], num_values: int) -> float:
        """Of one sum over so many devices."""
        key = (members, num_values)
        if key not in self._known:
            size_bytes = float(num_values * self.workload.parameter_bytes)
            self._known[key] = all_reduce(self._times, members, size_bytes).seconds
        return self._known[key]

    def after_blocks_s(self, members: tuple[int, ...], trained_part: Sequence[float]) -> np.ndarray:
        """Seconds of the sums from a block's on to the last, one after another, over devices that
        each hold the whole model; float ``[num_blocks]``. The classifier's comes with the last
        block's, the embedding's with the first one's.

        Args:
            members: the devices.
            trained_part: of every block's values that train, see `Load`.
        """
        num_blocks = len(trained_part)
        if len(members) == 1:
            return np.zeros(num_blocks)
        values = self.trunk_values.copy()
        values[:num_blocks] += self._trained_values(trained_part)
        of_block_s = np.array([self.seconds(members, n) if n else 0.0 for n in values.tolist()])
        after_s = of_block_s[EMBEDDING] + np.cumsum(of_block_s[:num_blocks])
        after_s[-1] += of_block_s[num_blocks]
        return after_s

    def after_blocks_of_s(self, sums: Sequence[GradientSum], num_blocks: int) -> np.ndarray:
        """As `after_blocks_s`, of any sums: as if all that are left could start with a block's."""
        return np.array(
            [
                self.end_s([one for one in sums if one.block <= block], np.zeros(num_blocks))
                for block in (*range(num_blocks - 1), num_blocks)
            ]
        )

    def end_s(self, sums: Sequence[GradientSum], done_s: np.ndarray) -> float:
        """When the last of any sums ends; those that need the same link wait for one another.

        Args:
            sums: in the order in which backward makes them.
            done_s: when backward of every block has ended on all devices, float ``[num_blocks]``.
        """
        free_s = [0.0] * len(self.cluster.link_bandwidth_bytes_per_s)
        of_block_s = done_s.tolist()
        end_s = max(of_block_s)
        for one in sums:
            on = self._channels(one.members)
            start_s = of_block_s[min(max(one.block, 0), len(of_block_s) - 1)]
            for channel in on:
                start_s = max(start_s, free_s[channel])
            ended_s = start_s + self.seconds(one.members, one.num_values)
            for channel in on:
                free_s[channel] = ended_s
            end_s = max(end_s, ended_s)
        return float(end_s)

    def _channels(self, members: tuple[int, ...]) -> list[int]:
        """Those that a sum over some devices needs, indices."""
        if members not in self._used:
            one = all_reduce(self._times, members, 1.0)
            loads = link_loads(self.cluster, one.pair_bytes)
            needed = np.flatnonzero(channel_seconds(self.cluster, loads))
            self._used[members] = needed.tolist()
        return self._used[members]
