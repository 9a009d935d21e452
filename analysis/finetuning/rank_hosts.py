"""Which device of the cluster each host of a job plays."""

import platform
from collections.abc import Sequence

from analysis.console.progress import TerminalProgress
from runtime.ranks.agreement import gather_texts
from runtime.ranks.job import Ranks


def note_hosts(ranks: Ranks, device_names: Sequence[str], progress: TerminalProgress) -> None:
    """Say where each device's rank runs, if not all are on one host; all ranks must call this.

    Args:
        ranks: one for each of these devices, in their order.
        device_names: of the plan's cluster.
        progress: of rank 0; it says nothing on the others.
    """
    hosts = gather_texts(ranks, platform.node(), "the sharing of the hosts' names")
    if ranks.rank == 0 and len(set(hosts)) > 1:
        named = zip(device_names, hosts, strict=True)
        places = (f"{device} on {host} (rank {i})" for i, (device, host) in enumerate(named))
        progress.note(f"Devices: {', '.join(places)}")
