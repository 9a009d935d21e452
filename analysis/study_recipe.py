"""What a method of a study comes to: schedules, where they run, and what finding them took."""

from dataclasses import dataclass

import numpy as np

from analysis.study_file import MethodSchema
from d2ft_sched.cluster import Cluster
from d2ft_sched.place_balanced import place_balanced
from d2ft_sched.placement import Placement, place_round_robin
from d2ft_sched.workload import Workload
from runtime.data.minibatches import epoch_order
from runtime.peers.stepwise import StepwiseSchedules
from runtime.peers.training import Scored, Start


@dataclass(frozen=True, eq=False)
class Recipe:
    """What to train, where it would run.

    Attributes:
        schedules: of every step, int8 ``[num_steps, num_subnets, num_microbatches]``; none yet
            where there is a `policy`.
        num_epochs: passes through the mini-batches.
        leave_out: see `runtime.peers.training.train_peer`.
        cluster: that it would run on.
        placement: of subnets and owners; None for data parallel. Where micro-batches are left out,
            its owners are those of the ones that run.
        scored: scores that were taken before training, or None.
        solve_s: seconds that solving took for all steps.
        policy: what decides the schedule of each step during training, or None.
        rescale: see `runtime.lane_hooks.rescaled`.
        lr_factor: of the study's learning rate.
    """

    schedules: np.ndarray
    num_epochs: int
    leave_out: bool
    cluster: Cluster
    placement: Placement | None
    scored: Scored | None = None
    solve_s: float = 0.0
    policy: StepwiseSchedules | None = None
    rescale: bool = False
    lr_factor: float = 1.0


def minibatch_order(start: Start, num_epochs: int) -> np.ndarray:
    """The mini-batch of every step, int ``[num_steps]``."""
    return np.concatenate(
        [epoch_order(start.num_minibatches, e + 1, start.seed) for e in range(num_epochs)]
    )


def naive_placement(workload: Workload, cluster: Cluster) -> Placement:
    """Subnets and micro-batches dealt in turn."""
    return place_round_robin(workload.partition, workload.num_microbatches, len(cluster.devices))


def placement_of(method: MethodSchema, workload: Workload, cluster: Cluster) -> Placement:
    """The naive one or the best for a dense step, as the method says."""
    if method.placement == "naive":
        return naive_placement(workload, cluster)
    return place_balanced(workload, cluster).placement


def best_dense_step_s(workload: Workload, cluster: Cluster) -> float:
    """Seconds of the dense step with the best placement found; the unit of step-time budgets."""
    return place_balanced(workload, cluster).dense_step_s
