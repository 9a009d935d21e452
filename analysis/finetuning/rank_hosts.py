"""Which device of the cluster each host of a job plays."""

import platform

from analysis.console.progress import TerminalProgress
from d2ft_sched.cluster.cluster import Cluster
from runtime.ranks.agreement import gather_texts
from runtime.ranks.job import Ranks


def note_hosts(ranks: Ranks, cluster: Cluster, progress: TerminalProgress) -> None:
    """Say where each device's rank runs, if not all are on one host; all ranks must call this.

    Args:
        ranks: one for each device, in their order.
        cluster: of the plan.
        progress: of rank 0; it says nothing on the others.
    """
    hosts = gather_texts(ranks, platform.node(), "the sharing of the hosts' names")
    if ranks.rank == 0 and len(set(hosts)) > 1:
        named = zip(cluster.devices, hosts, strict=True)
        places = (f"{device.name} on {host} (rank {i})" for i, (device, host) in enumerate(named))
        progress.note(f"Devices: {', '.join(places)}")
