"""The question before any plan: would one device of the cluster do it alone?"""

from dataclasses import dataclass

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.plan.plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.step import simulate_step


@dataclass(frozen=True)
class Alone:
    """A device that could run the dense step by itself, its predicted seconds and peak memory."""

    device: str
    step_s: float
    peak_memory_bytes: float


def fastest_alone(plan: Plan) -> Alone | None:
    """The device that would run the plan's mini-batch densely in the least time; None where no
    device's memory holds it."""
    workload = plan.workload
    placement = place_round_robin(workload.partition, workload.num_microbatches, 1)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    fitting = []
    for device in plan.cluster.devices:
        step = simulate_step(
            workload, Cluster(device.name, (device,)), placement, dense, plan.num_waves
        )
        if not step.out_of_memory:
            fitting.append(Alone(device.name, step.step_s, float(step.peak_memory_bytes[0])))
    return min(fitting, key=lambda alone: alone.step_s, default=None)
