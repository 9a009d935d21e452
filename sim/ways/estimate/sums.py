"""When the sums of gradients end that follow the last pass backward, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.gradient_sums import GradientSum, trained_trunk_values
from d2ft_sched.costs.memory import trained_shared_parameters, trained_subnet_parameters
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import whole
from sim.network.collectives import all_reduce
from sim.network.exchange_time import ExchangeTimes


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

    def whole_copies_end_s(
        self, members: tuple[int, ...], trains: Sequence[bool], done_s: np.ndarray
    ) -> float:
        """When the last sum ends over devices that each hold the whole model.

        Args:
            members: the devices.
            trains: for every block, whether it trains.
            done_s: when backward of every block has ended on all of them, float ``[num_blocks]``;
                the classifier's sum starts with the last block's.
        """
        end_s = float(done_s.min())
        num_blocks = len(trains)
        for block in range(num_blocks, -2, -1):
            values = int(self.trunk_values[block])
            if 0 <= block < num_blocks and trains[block]:
                values += self.block_values
            if values and len(members) > 1:
                end_s = max(
                    end_s, float(done_s[min(max(block, 0), num_blocks - 1)])
                ) + self.seconds(members, values)
        return max(end_s, float(done_s.max()))

    def end_s(self, sums: Sequence[GradientSum], done_s: np.ndarray) -> float:
        """When the last of any sums ends; those that share a device wait for one another.

        Args:
            sums: in the order in which backward makes them.
            done_s: as for `whole_copies_end_s`.
        """
        free_s = np.zeros(len(self.cluster.devices))
        end_s = float(done_s.max())
        for one in sums:
            on = list(one.members)
            start_s = max(
                float(free_s[on].max()), float(done_s[min(max(one.block, 0), len(done_s) - 1)])
            )
            free_s[on] = start_s + self.seconds(one.members, one.num_values)
            end_s = max(end_s, float(free_s[on[0]]))
        return end_s
