"""Placements by the names that the command line takes."""

from dataclasses import dataclass

import numpy as np

from analysis.names.placement_names import PlacementName
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_candidates
from d2ft_sched.placement_search.recomputing import recomputing_where_needed
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.step import simulate_step

MAX_CANDIDATES = 4
"""Placements that a plan for a step time is tried on."""


@dataclass(frozen=True)
class Placed:
    """Placements to try, the preferred one first.

    Attributes:
        placements: one or more.
        dense_step_s: seconds of the dense step on the first.
        lower_bound_s: seconds that no placement beats; None where nothing was searched, and where
            adapters train: `DenseStep` takes their first block for dearer than it is.
        fits_dense: whether the dense step fits the memory of the first.
    """

    placements: tuple[Placement, ...]
    dense_step_s: float
    lower_bound_s: float | None
    fits_dense: bool

    def describe(self, num_devices: int, taken: Placement) -> str:
        """One line for people of the placement that was taken, which need not be the first."""
        best = self.placements[0]
        text = (
            f"{len(set(taken.subnet_device))} of {num_devices} devices hold subnets, "
            f"{len(taken.owners)} own micro-batches; the dense step takes "
            f"{self.dense_step_s:.4g} s (predicted)"
        )
        if taken != best:
            text += f" on the {len(set(best.subnet_device))} where it is fastest"
        if self.lower_bound_s is not None:
            text += f", no placement takes less than {self.lower_bound_s:.4g} s"
        if not self.fits_dense:
            text += "; it does not fit their memory, which limits what plans keep for backward"
        return text


def place(name: PlacementName, workload: Workload, cluster: Cluster, num_waves: int) -> Placed:
    """The placements of that name.

    Raises:
        InputError: memory does not suffice, or devices are more than a block's subnets.
    """
    if name == PlacementName.ROUND_ROBIN:
        dealt = place_round_robin(
            workload.partition, workload.num_microbatches, len(cluster.devices)
        )
        placement = recomputing_where_needed(workload, cluster, dealt, num_waves)
        return Placed(
            (placement,),
            dense_step_s(workload, cluster, placement, num_waves),
            None,
            fits_dense=_fits_dense(workload, cluster, placement, num_waves),
        )
    found = place_candidates(
        workload, cluster, num_waves=num_waves, every_device=name == PlacementName.EVERY_DEVICE
    )
    placements = tuple(result.placement for result in found[:MAX_CANDIDATES])
    dense_s = dense_step_s(workload, cluster, placements[0], num_waves)
    bound_s = None if workload.lora is not None else found[0].lower_bound_s
    return Placed(placements, dense_s, bound_s, found[0].fits_dense)


def _fits_dense(workload: Workload, cluster: Cluster, placement: Placement, num_waves: int) -> bool:
    needed = device_memory(workload, placement, _dense(workload), num_waves).total
    return all(needed <= [device.memory_bytes for device in cluster.devices])


def dense_step_s(
    workload: Workload, cluster: Cluster, placement: Placement, num_waves: int = 1
) -> float:
    """Seconds of the dense step, simulated: `DenseStep`, which the search goes by, hides no sum of
    the trunk's gradients behind backward."""
    return simulate_step(workload, cluster, placement, _dense(workload), num_waves).step_s


def _dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
