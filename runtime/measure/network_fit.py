"""From times of messages between ranks to the links of a cluster."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError

STAR_MISFIT = 0.25
"""Up to which a switch with one link for each device is taken for the network."""

_SLOWEST_BYTES_PER_S, _FASTEST_BYTES_PER_S = 1e3, 1e13


@dataclass(frozen=True)
class NetworkTimes:
    """Measured exchanges; seconds are those of the slowest rank.

    Attributes:
        pair_bytes: sizes of single messages, ``[num_sizes]``.
        pair_s: of one message from row to column rank, the least of several since other work can
            only delay it, ``[num_sizes, num_ranks, num_ranks]``.
        all_bytes: sizes of the messages of exchanges between all pairs, ``[num_exchanges]``.
        all_s: of these exchanges, ``[num_exchanges]``.
    """

    pair_bytes: np.ndarray
    pair_s: np.ndarray
    all_bytes: np.ndarray
    all_s: np.ndarray


@dataclass(frozen=True)
class NetworkFit:
    """Links that explain the times, and how well.

    Attributes:
        cluster: devices on one switch, or with a link between any two.
        pair_r_squared: least goodness of fit of a pair's line over sizes.
        star_misfit: largest relative difference between a pair's rate and the narrower of the two
            links that a switch would have.
        all_predicted_s: by the cluster, of the exchanges between all pairs, ``[num_exchanges]``.
    """

    cluster: Cluster
    pair_r_squared: float
    star_misfit: float
    all_predicted_s: np.ndarray


def fit_network(name: str, devices: tuple[Device, ...], times: NetworkTimes) -> NetworkFit:
    """Fit a line over sizes to every pair; then a link to every device by the rule that a message
    gets the narrower of its two links, or else a link to every pair.

    The exchanges between all pairs then say, by a line of their seconds over those of their busiest
    link, how much of these rates an exchange gets, and its latency. Both include what the exchange
    costs the processors: every exchange of a step pays that, too.

    Raises:
        InputError: fewer than two devices.
    """
    num = len(devices)
    if num < 2:
        raise InputError(f"a network is fitted between 2 or more devices; there is {num}")
    pairs = ~np.eye(num, dtype=bool)
    rate, r_squared = np.zeros((num, num)), 1.0
    for i, j in np.argwhere(pairs):
        rate[i, j], fit = _line(times.pair_bytes, times.pair_s[:, i, j])
        r_squared = min(r_squared, fit)
    both_ways = (rate + rate.T) / 2
    own = both_ways.max(axis=1)
    narrower = np.minimum(own[:, None], own)
    misfit = float(np.abs(rate[pairs] / narrower[pairs] - 1).max())
    is_star = misfit <= STAR_MISFIT
    busiest_s = (num - 1) * times.all_bytes / own.min()
    if not is_star:
        narrower, busiest_s = both_ways, times.all_bytes / both_ways[pairs].min()
    stretch, latency_s = _stretch(busiest_s, times.all_s)
    own, both_ways, busiest_s = own / stretch, both_ways / stretch, busiest_s * stretch
    names = [device.name for device in devices]
    if is_star:
        links = tuple(
            Link(device, "switch", float(c), latency_s / 2)
            for device, c in zip(names, own, strict=True)
        )
        cluster = Cluster(name, devices, links, ("switch",), "star")
    else:
        links = tuple(
            Link(names[i], names[j], float(both_ways[i, j]), latency_s)
            for i in range(num)
            for j in range(i + 1, num)
        )
        cluster = Cluster(name, devices, links, (), "full_mesh")
    return NetworkFit(cluster, r_squared, misfit, busiest_s + latency_s)


def _stretch(busiest_s: np.ndarray, all_s: np.ndarray) -> tuple[float, float]:
    """How many times longer exchanges take than their busiest link, at least 1, and their latency,
    at least 0; both by relative errors."""
    slope, start = np.polyfit(busiest_s, all_s, 1, w=1 / all_s)
    if slope < 1:
        slope, start = 1.0, float(np.average(all_s - busiest_s, weights=1 / all_s**2))
    return float(slope), max(0.0, float(start))


def _line(size: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Bytes/s and R squared of a line of seconds over sizes, by relative errors."""
    slope, start = np.polyfit(size, seconds, 1, w=1 / seconds)
    rest = ((seconds - start - slope * size) ** 2).sum()
    spread = ((seconds - seconds.mean()) ** 2).sum()
    rate = 1 / slope if slope > 0 else _FASTEST_BYTES_PER_S
    return float(np.clip(rate, _SLOWEST_BYTES_PER_S, _FASTEST_BYTES_PER_S)), float(
        1 - rest / spread if spread else 1.0
    )
