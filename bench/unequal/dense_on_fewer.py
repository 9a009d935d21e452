"""The baseline that is hardest to beat: dense on fewer micro-batches, at equal step time."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.left_out import without_microbatches
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.prediction import Prediction
from sim.step import simulate_step


@dataclass(frozen=True, eq=False)
class FewerMicrobatches:
    """Some micro-batches dense, the others not run at all.

    Attributes:
        kept: indices of the micro-batches that run, in order.
        retained_score: their share of the dense value.
        samples_fraction: their share of the samples.
        prediction: of the step.
    """

    kept: np.ndarray
    retained_score: float
    samples_fraction: float
    prediction: Prediction


def fewer_microbatches(
    workload: Workload, cluster: Cluster, placement: Placement, scores: Scores, target_s: float
) -> FewerMicrobatches | None:
    """The most micro-batches, those of most value, whose dense step takes at most `target_s`.

    Subnets and owners stay where they are. None where not even one micro-batch is fast enough.

    Args:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        placement: of subnets and owners.
        scores: contribution of every subnet to every micro-batch.
        target_s: seconds of the simulated step.
    """
    value = scores.values()[..., Operation.FULL].sum(axis=0)
    order = np.argsort(-value, kind="stable")
    for number in range(len(order), 0, -1):
        kept = np.sort(order[:number])
        fewer, owned = without_microbatches(workload, placement, kept)
        dense = uniform_schedule(workload.num_subnets, number, Operation.FULL)
        prediction = simulate_step(fewer, cluster, owned, dense)
        if prediction.step_s <= target_s:
            return FewerMicrobatches(
                kept=kept,
                retained_score=float(value[kept].sum() / value.sum()),
                samples_fraction=float(fewer.samples.sum() / workload.samples.sum()),
                prediction=prediction,
            )
    return None
