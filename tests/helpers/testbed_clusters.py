"""Clusters that tests of the testbed play."""

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.cluster_file import cluster_from_dict
from d2ft_sched.cluster.device import Device


def star(*mbit_per_s: float, speeds: tuple[float, ...] = (), latency_s: float = 0.0) -> Cluster:
    devices = tuple(
        Device(f"host{i}", 1e10 * speed, 10**9, 1e9)
        for i, speed in enumerate(speeds or (1.0,) * len(mbit_per_s))
    )
    links = tuple(
        Link(device.name, "switch", rate * 1e6 / 8, latency_s)
        for device, rate in zip(devices, mbit_per_s, strict=True)
    )
    return Cluster("tried here", devices, links, ("switch",), "star")


def network(kind: str, num_devices: int, **fields: object) -> Cluster:
    device = {
        "compute_flops_per_s": 1e10,
        "memory_bytes": 10**9,
        "memory_bandwidth_bytes_per_s": 1e9,
    }
    cable = {"bandwidth_bytes_per_s": 1e8, "latency_s": 1e-5}
    return cluster_from_dict(
        {
            "name": kind,
            "devices": [{"name": "d", "count": num_devices, **device}],
            "network": {"kind": kind, **cable, **fields},
        }
    )
