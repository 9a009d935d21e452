"""How devices share links: what each may exchange if no link carries messages for longer than t."""

from collections.abc import Callable

import numpy as np

from d2ft_sched.deployment import Deployment

BISECTIONS = 100
"""Halvings of a level; float64 has 53 bits."""


def seconds_per_byte(deployment: Deployment, devices: np.ndarray) -> np.ndarray:
    """Seconds that every channel works for each byte that a device exchanges with the owners.

    A device's bytes are half dispatched to it and half combined from it, over the routes to the
    owners in proportion to what these own. Dispatch and combine load the channels one after the
    other, so each channel has a row for either.

    Args:
        deployment: one replica.
        devices: which devices, int ``[num_devices]``.

    Returns:
        float ``[num_rows, num_devices]``, rows without any load left out.
    """
    cluster = deployment.cluster
    owners, inverse = np.unique(deployment.placement.owner, return_inverse=True)
    owned = np.bincount(inverse.ravel(), weights=deployment.workload.activation_bytes)
    bandwidth = cluster.link_bandwidth_bytes_per_s
    table = np.zeros((2, len(bandwidth), len(devices)))
    for column, device in enumerate(devices):
        remote = owners != device
        if not remote.any():
            continue
        share = owned[remote] / owned[remote].sum()
        here = np.full(int(remote.sum()), device)
        for row, (source, target) in enumerate(((owners[remote], here), (here, owners[remote]))):
            routes = cluster.routes(source, target)
            weight = np.repeat(share, np.diff(routes.offsets))
            channel = cluster.link_channel[routes.links]
            np.add.at(table[row, :, column], channel, weight / bandwidth[channel])
    rows = table.reshape(-1, len(devices))
    return rows[rows.any(axis=1)]


def fair_bytes(seconds_per_byte: np.ndarray, demand: np.ndarray, level_s: float) -> np.ndarray:
    """Max-min fair bytes of each device under a level of all channels, by progressive filling.

    Bertsekas and Gallager, Data Networks (1992), section 6.5: all grow alike until a channel is
    full or a demand is met, so that who asks for little gets it and the others share the rest.

    Args:
        seconds_per_byte: float ``[num_rows, num_devices]``.
        demand: bytes that each device asks for, float ``[num_devices]``.
        level_s: seconds that every channel may work, for dispatch and combine together.
    """
    granted = np.zeros(len(demand))
    growing = demand > 0
    left = np.full(len(seconds_per_byte), level_s)
    while growing.any():
        load = seconds_per_byte[:, growing].sum(axis=1)
        used = load > 0
        room = float((left[used] / load[used]).min()) if used.any() else np.inf
        increment = max(0.0, min(room, float((demand - granted)[growing].min())))
        granted[growing] += increment
        left = left - increment * load
        full = used & (left <= level_s * 1e-12)
        met = granted >= demand * (1 - 1e-12)
        growing &= ~met & ~seconds_per_byte[full].any(axis=0)
        if increment == 0.0 and not full.any():
            break
    return np.where(granted >= demand * (1 - 1e-12), demand, granted)


def fair_level_s(seconds_per_byte: np.ndarray, demand: np.ndarray, total: float) -> float:
    """The least level under which the devices together are granted `total` bytes."""
    return _least_level_s(seconds_per_byte, demand, lambda granted: granted.sum() >= total)


def level_granting_s(seconds_per_byte: np.ndarray, demand: np.ndarray, needed: np.ndarray) -> float:
    """The least level under which each device is granted what it needs of its demand, float
    ``[num_devices]``."""
    return _least_level_s(seconds_per_byte, demand, lambda granted: (granted >= needed).all())


def _least_level_s(
    seconds_per_byte: np.ndarray,
    demand: np.ndarray,
    is_enough: Callable[[np.ndarray], bool | np.bool_],
) -> float:
    low, high = 0.0, float((seconds_per_byte @ demand).max(initial=0.0))
    if is_enough(fair_bytes(seconds_per_byte, demand, low)):
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if is_enough(fair_bytes(seconds_per_byte, demand, middle)):
            high = middle
        else:
            low = middle
    return high
