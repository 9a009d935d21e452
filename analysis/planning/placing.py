"""Placements by the names that the command line takes."""

from dataclasses import dataclass

from analysis.names.placement_names import PlacementName
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.memory import dense_bytes
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.balanced import place_candidates
from d2ft_sched.placement_search.recomputing import recomputing_where_needed
from d2ft_sched.schedule.placement import Placement
from sim.step import simulate_dense

MAX_CANDIDATES = 4
"""Placements that a plan for a step time is tried on."""


@dataclass(frozen=True)
class Placed:
    """Placements to try, the preferred one first.

    Attributes:
        deployments: one or more, each of one replica, on one placement.
        dense_step_s: seconds of the dense step on the first.
        lower_bound_s: seconds that no placement beats; None where nothing was searched, and where
            adapters train: `DenseStep` takes their first block for dearer than it is.
        fits_dense: whether the dense step fits the memory of the first.
    """

    deployments: tuple[Deployment, ...]
    dense_step_s: float
    lower_bound_s: float | None
    fits_dense: bool

    def describe(self, num_devices: int, taken: Placement) -> str:
        """One line for people of the placement that was taken, which need not be the first."""
        best = self.deployments[0].placement
        text = (
            f"{len(set(taken.subnet_device))} of {counted(num_devices, 'device')} hold subnets, "
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
        dealt = recomputing_where_needed(deploy(workload, cluster, num_waves=num_waves))
        return Placed((dealt,), simulate_dense(dealt).step_s, None, fits_dense=_fits_dense(dealt))
    found = place_candidates(
        workload, cluster, num_waves=num_waves, every_device=name == PlacementName.EVERY_DEVICE
    )
    deployments = tuple(
        deploy(workload, cluster, result.placement, num_waves) for result in found[:MAX_CANDIDATES]
    )
    # Not the search's own seconds, which hide no sum of the trunk's gradients behind backward.
    dense_s = simulate_dense(deployments[0]).step_s
    bound_s = None if workload.lora is not None else found[0].lower_bound_s
    return Placed(deployments, dense_s, bound_s, found[0].fits_dense)


def _fits_dense(deployment: Deployment) -> bool:
    needed = dense_bytes(deployment.workload, deployment.replica)
    return all(needed <= [device.memory_bytes for device in deployment.cluster.devices])
