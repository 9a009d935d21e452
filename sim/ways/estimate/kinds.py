"""Which devices of a cluster compute alike."""

from dataclasses import replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device


def nameless(device: Device) -> Device:
    """The same for all devices that compute alike and have as much memory."""
    return replace(
        device, name="any", price_per_hour=None, power_w=None, idle_power_w=None, source=""
    )


def device_kinds(cluster: Cluster) -> np.ndarray:
    """Equal numbers for devices that are alike but for their links, int ``[num_devices]``."""
    known: dict[Device, int] = {}
    return np.array([known.setdefault(nameless(d), len(known)) for d in cluster.devices])
