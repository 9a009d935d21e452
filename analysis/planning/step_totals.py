"""FLOPs and bytes of a step on any replicas, counted exactly."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.deployment import Deployment


@dataclass(frozen=True)
class StepTotals:
    """What a step amounts to; micro-batches that pass no subnet are not run.

    Attributes:
        flops: trunk included.
        message_bytes: dispatched and combined inside replicas.
        gradient_bytes: that the sums over holders hand to the network, around rings.
    """

    flops: float
    message_bytes: int
    gradient_bytes: int

    @property
    def exchange_bytes(self) -> int:
        return self.message_bytes + self.gradient_bytes


def step_totals(deployment: Deployment, schedule: np.ndarray) -> StepTotals:
    """Count a step.

    Args:
        deployment: a mini-batch dealt to replicas.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    parts = deployment.parts_of(schedule)
    summed = gradient_sums(deployment.workload, deployment.replicas, schedule)
    return StepTotals(
        flops=sum(step_flops(p.workload, p.schedule, p.placement) for p in parts if not p.is_idle),
        message_bytes=sum(
            plan_exchange(p.workload, p.placement, p.schedule).total_bytes() for p in parts
        ),
        gradient_bytes=deployment.workload.parameter_bytes
        * sum(2 * (len(one.members) - 1) * one.num_values for one in summed),
    )
