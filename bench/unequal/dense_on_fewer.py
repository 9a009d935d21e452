"""The baseline that is hardest to beat: dense on fewer micro-batches, at equal step time."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from sim.prediction import Prediction
from sim.step import simulate_dense


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
    deployment: Deployment, scores: Scores, target_s: float
) -> FewerMicrobatches | None:
    """The most micro-batches, those of most value, whose dense step takes at most `target_s`.

    Subnets and owners stay where they are. None where not even one micro-batch is fast enough.

    Args:
        deployment: one replica in one wave.
        scores: contribution of every subnet to every micro-batch.
        target_s: seconds of the simulated step.
    """
    workload = deployment.workload
    value = scores.values()[..., Operation.FULL].sum(axis=0)
    order = np.argsort(-value, kind="stable")
    for number in range(len(order), 0, -1):
        kept = np.sort(order[:number])
        fewer = deployment.with_only(kept)
        prediction = simulate_dense(fewer)
        if prediction.step_s <= target_s:
            return FewerMicrobatches(
                kept=kept,
                retained_score=float(value[kept].sum() / value.sum()),
                samples_fraction=float(fewer.workload.samples.sum() / workload.samples.sum()),
                prediction=prediction,
            )
    return None
