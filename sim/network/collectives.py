"""All-reduce over point-to-point messages: the sum of a tensor of every member, at every member."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

import numpy as np

from d2ft_sched.errors import InputError
from sim.network.exchange_time import ExchangeTimes

Algorithm = Literal["ring", "tree"]


@dataclass(frozen=True)
class CollectiveRound:
    """Messages that are sent together, some times one after another.

    Attributes:
        pair_bytes: of one time, from row to column device, ``[num_devices, num_devices]``.
        num_times: how often.
    """

    pair_bytes: np.ndarray
    num_times: int


def ring_all_reduce(
    members: Sequence[int], num_devices: int, size_bytes: float
) -> list[CollectiveRound]:
    """Reduce-scatter, then all-gather, around a ring (Patarasuk and Yuan, JPDC 69(2), 2009).

    In each of ``2 (n - 1)`` rounds each of the n members sends an n-th of the tensor to the next,
    so that it sends ``2 (n - 1) / n`` of the tensor: the least that any all-reduce can do with.
    """
    num_members = len(members)
    if num_members == 1:
        return []
    pair_bytes = np.zeros((num_devices, num_devices))
    for source, target in zip(members, (*members[1:], members[0]), strict=True):
        pair_bytes[source, target] = size_bytes / num_members
    return [CollectiveRound(pair_bytes, 2 * (num_members - 1))]


def tree_all_reduce(
    members: Sequence[int], num_devices: int, size_bytes: float
) -> list[CollectiveRound]:
    """Reduce to the first member along a binomial tree, then broadcast back along it.

    In ``2 ceil(log2 n)`` rounds of the whole tensor (Thakur, Rabenseifner and Gropp, IJHPCA 19(1),
    2005): fewer latencies than a ring, more bytes on the links near the first member.
    """
    num_levels = ceil(log2(len(members)))
    up = []
    for level in range(num_levels):
        distance = 2**level
        pair_bytes = np.zeros((num_devices, num_devices))
        for position in range(distance, len(members), 2 * distance):
            pair_bytes[members[position], members[position - distance]] = size_bytes
        up.append(CollectiveRound(pair_bytes, 1))
    return up + [CollectiveRound(r.pair_bytes.T, 1) for r in reversed(up)]


ALL_REDUCES: dict[str, Callable[[Sequence[int], int, float], list[CollectiveRound]]] = {
    "ring": ring_all_reduce,
    "tree": tree_all_reduce,
}
"""By name: members as device indices, number of devices, bytes of the tensor -> rounds."""


@dataclass(frozen=True)
class AllReduce:
    """What an all-reduce takes.

    Attributes:
        seconds: until all members have the sum.
        pair_bytes: from row to column device, ``[num_devices, num_devices]``.
        buffer_bytes: sent and received by each device in its fullest round, ``[num_devices]``.
    """

    seconds: float
    pair_bytes: np.ndarray
    buffer_bytes: np.ndarray


def all_reduce(
    times: ExchangeTimes, members: Sequence[int], size_bytes: float, algorithm: str = "ring"
) -> AllReduce:
    """Rounds one after another, each as long as its last message.

    Args:
        times: of the cluster's exchanges.
        members: device indices, in the order of the ring or the tree.
        size_bytes: of the tensor that every member holds.
        algorithm: a key of `ALL_REDUCES`.

    Raises:
        InputError: there is no such algorithm.
    """
    if algorithm not in ALL_REDUCES:
        raise InputError(
            f"all-reduce algorithm is {algorithm!r}; it must be one of {', '.join(ALL_REDUCES)}"
        )
    num_devices = len(times.cluster.devices)
    rounds = ALL_REDUCES[algorithm](members, num_devices, size_bytes)
    seconds, pair_bytes = 0.0, np.zeros((num_devices, num_devices))
    buffer_bytes = np.zeros(num_devices)
    for one in rounds:
        seconds += one.num_times * times.seconds(one.pair_bytes)
        pair_bytes += one.num_times * one.pair_bytes
        in_round = one.pair_bytes.sum(axis=0) + one.pair_bytes.sum(axis=1)
        buffer_bytes = np.maximum(buffer_bytes, in_round)
    return AllReduce(seconds, pair_bytes, buffer_bytes)
