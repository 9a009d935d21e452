"""Placement on unequal devices and links: a fast search with a proven bound.

What is minimised is the dense step: in every block the slowest device, the messages between owners
and holders, the trunk on its owners, its all-reduce and the update. So slow devices get few subnets
and slow links few messages; where messages cost more than a device saves, it gets nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_bound import dense_lower_bound_s
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import excess_bytes, has_ample_memory, to_placement
from d2ft_sched.placement_search.local_search import Layout, devices_by_speed, search_layouts
from d2ft_sched.placement_search.recomputing import keeping_where_possible
from d2ft_sched.schedule.placement import Placement

MAX_POOL = 32
"""Devices that the search looks at, unless memory asks for more."""

KEPT_SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of what the dense step keeps for backward: what must fit, the most that any placement has."""


@dataclass(frozen=True)
class PlacementResult:
    """A placement and what is known of it.

    Attributes:
        placement: where subnets live and who owns micro-batches.
        dense_step_s: seconds of its dense step, by `DenseStep`.
        lower_bound_s: seconds that no placement on the cluster beats.
        method: how it was found.
        solve_s: seconds that finding it took.
        fits_dense: whether the dense step fits every device's memory; else only a plan that keeps
            fewer activations does.
    """

    placement: Placement
    dense_step_s: float
    lower_bound_s: float
    method: str
    solve_s: float
    fits_dense: bool = True

    @property
    def gap(self) -> float:
        """(seconds - bound) / seconds; 0 where the placement is proven optimal."""
        return max(0.0, 1 - self.lower_bound_s / self.dense_step_s)

    @property
    def num_active(self) -> int:
        """Devices that hold subnets."""
        return len(set(self.placement.subnet_device))


def place_balanced(
    workload: Workload,
    cluster: Cluster,
    *,
    num_waves: int = 1,
    every_device: bool = False,
) -> PlacementResult:
    """The best placement found.

    Args:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        num_waves: groups of micro-batches that pass through the model one after another.
        every_device: every device must hold a subnet of every block, as in the paper (our reading).

    Raises:
        InputError: memory does not suffice, or blocks have fewer subnets than there are devices
            that must each hold one.
    """
    return place_candidates(workload, cluster, num_waves=num_waves, every_device=every_device)[0]


def place_candidates(
    workload: Workload,
    cluster: Cluster,
    *,
    num_waves: int = 1,
    every_device: bool = False,
) -> list[PlacementResult]:
    """The best placement found for each number of active devices, the fastest dense step first.

    Args and errors as for `place_balanced`.
    """
    begin = time.perf_counter()
    if every_device:
        _check_enough_subnets(workload, cluster)
    pool_size = len(cluster.devices) if every_device else min(MAX_POOL, len(cluster.devices))
    while True:
        step = DenseStep(workload, cluster, _pool(workload, cluster, pool_size), num_waves)
        for kept_share in KEPT_SHARES:
            found = [(step, layout) for layout in search_layouts(step, every_device, kept_share)]
            if kept_share == 1 and not has_ample_memory(step):
                found = _fastest_of_each_number([*found, *_again(step, every_device)])
            if found:
                solve_s = time.perf_counter() - begin
                return _results(found, every_device, kept_share, solve_s)
        if pool_size == len(cluster.devices):
            raise InputError(
                f"cluster {cluster.name!r} has {sum(d.memory_bytes for d in cluster.devices):.3g} "
                f"bytes of memory on {counted(len(cluster.devices), 'device')}; no placement "
                f"was found that "
                f"holds the parameters, gradients and optimizer state of {workload.shape.name} and "
                f"an eighth of its activations: use more memory, more waves, smaller micro-batches "
                f"or a smaller model"
            )
        pool_size = min(2 * pool_size, len(cluster.devices))


def _check_enough_subnets(workload: Workload, cluster: Cluster) -> None:
    for block in range(workload.shape.num_blocks):
        num_subnets = len(workload.partition.of_block(block))
        if num_subnets < len(cluster.devices):
            raise InputError(
                f"block {block} has {counted(num_subnets, 'subnet')}; to give each of the "
                f"{counted(len(cluster.devices), 'device')} one it must have as many: cut it "
                f"finer, or let devices stay empty"
            )


def _again(once: DenseStep, every_device: bool) -> list[tuple[DenseStep, Layout]]:
    """Layouts for devices that compute forward again in backward, each with those that must."""
    everywhere = DenseStep(once.workload, once.cluster, once.devices, once.num_waves, once.devices)
    found = []
    for layout in search_layouts(everywhere, every_device, 1.0):
        counts, owner = layout.counts, layout.owner
        fits = partial(_fits_dense, counts=counts, owner=owner)
        step = keeping_where_possible(everywhere, counts, fits)
        found.append((step, Layout(counts, owner, step.seconds(counts, owner))))
    return found


def _fits_dense(step: DenseStep, counts: np.ndarray, owner: tuple[int, ...]) -> bool:
    return bool((excess_bytes(step, counts, owner, 1.0) <= 0).all())


def _fastest_of_each_number(
    found: Sequence[tuple[DenseStep, Layout]],
) -> list[tuple[DenseStep, Layout]]:
    """The fastest layout of each number of active devices, the fastest first."""
    best: dict[int, tuple[DenseStep, Layout]] = {}
    for one in sorted(found, key=lambda pair: pair[1].seconds):
        best.setdefault(one[1].num_active, one)
    return list(best.values())


def _results(
    found: Sequence[tuple[DenseStep, Layout]],
    every_device: bool,
    kept_share: float,
    solve_s: float,
) -> list[PlacementResult]:
    step = found[0][0]
    everyone = DenseStep(
        step.workload, step.cluster, tuple(range(len(step.cluster.devices))), step.num_waves
    )
    kept = 0.0 if any(step.recomputing for step, _ in found) else kept_share
    bound_s = dense_lower_bound_s(everyone, every_device=every_device, kept_share=kept)
    return [
        PlacementResult(
            placement=to_placement(step, layout.counts, layout.owner),
            dense_step_s=layout.seconds,
            lower_bound_s=min(bound_s, layout.seconds),
            method=f"local search over sets of devices, on {layout.num_active} of "
            f"{counted(len(step.cluster.devices), 'device')}",
            solve_s=solve_s,
            fits_dense=kept_share == 1,
        )
        for step, layout in found
    ]


def _pool(workload: Workload, cluster: Cluster, size: int) -> tuple[int, ...]:
    """Indices of the fastest devices and of those with the widest links, half each."""
    num = len(cluster.devices)
    if size >= num:
        return tuple(range(num))
    everyone = DenseStep(workload, cluster, tuple(range(num)))
    by_speed = devices_by_speed(everyone)
    bandwidth = cluster.device_bandwidth_bytes_per_s()
    by_link = sorted(by_speed, key=lambda d: -bandwidth[d])  # fastest first among equals
    chosen: dict[int, None] = {}
    for pair in zip(by_speed, by_link, strict=True):
        for device in pair:
            if len(chosen) < size:
                chosen[device] = None
    return tuple(sorted(chosen))
