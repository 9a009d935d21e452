"""Links that exchanges of several replicas cross at the same time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.schedule.replica import Replica


def replica_clusters(cluster: Cluster, replicas: Sequence[Replica]) -> list[Cluster]:
    """The cluster as each replica's exchanges have it.

    A link over which dispatch or combine of several replicas go is divided among them evenly, as if
    all of them used it all the time.
    """
    cut = [index for index, r in enumerate(replicas) if len(r.devices) > 1]
    if len(cut) < 2 or cluster.is_non_blocking_switch:
        return [cluster] * len(replicas)
    crossed = {index: _crossed(cluster, replicas[index]) for index in cut}
    num_users = np.sum(list(crossed.values()), axis=0)
    if num_users.max() < 2:
        return [cluster] * len(replicas)
    return [
        _divided(cluster, np.where(crossed[index], num_users, 1)) if index in crossed else cluster
        for index in range(len(replicas))
    ]


def _crossed(cluster: Cluster, replica: Replica) -> np.ndarray:
    """Whether messages between owners and holders may go over a link, bool ``[num_links]``."""
    owners = np.array(replica.placement.owners)
    holders = np.unique(replica.placement.subnet_device)
    source, target = (a.ravel() for a in np.meshgrid(owners, holders))
    apart = source != target
    ends = np.concatenate([source[apart], target[apart]])
    others = np.concatenate([target[apart], source[apart]])
    is_crossed = np.zeros(len(cluster.links), dtype=bool)
    is_crossed[cluster.routes(ends, others).links // 2] = True
    return is_crossed


def _divided(cluster: Cluster, num_users: np.ndarray) -> Cluster:
    links = tuple(
        replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / number)
        for link, number in zip(cluster.links, num_users.tolist(), strict=True)
    )
    return replace(cluster, links=links)
