"""One synchronous training step on a cluster, phase by phase, as the runtime executes it.

Every phase ends with a barrier: an exchange is a collective, and a block's combine needs the
partial sums of all devices. Within a block and sub-layer, forward: trunk on the owners, dispatch,
lanes, combine; backward the same in reverse. After the last wave the trunk's gradients are
all-reduced over the owners (ring) and every device updates its parameters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.cluster import Cluster
from d2ft_sched.exchange import DIRECTIONS, SUBLAYERS, plan_exchange
from d2ft_sched.flops import step_flops
from d2ft_sched.memory import device_memory
from d2ft_sched.placement import Placement
from d2ft_sched.plan import Plan
from d2ft_sched.waves import wave_microbatches
from d2ft_sched.workload import Workload
from sim.network import exchange_seconds
from sim.prediction import Phase, Prediction
from sim.work import optimizer_seconds, wave_work


def simulate_plan(plan: Plan, cluster: Cluster | None = None) -> Prediction:
    """Simulate a plan on its own cluster, or on another with as many devices."""
    return simulate_step(
        plan.workload, cluster or plan.cluster, plan.placement, plan.schedule, plan.num_waves
    )


def simulate_step(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    num_waves: int = 1,
) -> Prediction:
    """Simulate one step of a schedule, int ``[num_subnets, num_microbatches]``."""
    phases: list[Phase] = []
    clock_s = 0.0
    for wave, microbatches in enumerate(wave_microbatches(workload.num_microbatches, num_waves)):
        for phase in _wave_phases(workload, cluster, placement, schedule, wave, microbatches):
            phases.append(replace(phase, start_s=clock_s))
            clock_s += phase.duration_s
    for phase in _update_phases(workload, cluster, placement, num_waves - 1):
        phases.append(replace(phase, start_s=clock_s))
        clock_s += phase.duration_s
    return Prediction(
        cluster=cluster,
        phases=tuple(phases),
        flops=step_flops(workload, schedule),
        memory=device_memory(workload, placement, schedule, num_waves),
    )


@dataclass(frozen=True)
class _Place:
    """Where in a step a phase belongs."""

    wave: int
    direction: str
    block: int

    def computing(self, name: str, device_s: np.ndarray) -> Phase:
        return Phase(
            self.wave, self.direction, self.block, name, 0.0, float(device_s.max()), device_s
        )

    def moving(self, name: str, seconds: float, pair_bytes: np.ndarray) -> Phase:
        return Phase(
            self.wave, self.direction, self.block, name, 0.0, seconds, pair_bytes=pair_bytes
        )


def _wave_phases(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    wave: int,
    microbatches: np.ndarray,
) -> Iterator[Phase]:
    in_wave = np.zeros(workload.num_microbatches, dtype=bool)
    in_wave[microbatches] = True
    exchange = plan_exchange(workload, placement, np.where(in_wave, schedule, 0))
    work = wave_work(workload, cluster, placement, schedule, microbatches)
    num_blocks = workload.shape.num_blocks
    sublayer_trunk_s = work.trunk_s / (num_blocks * len(SUBLAYERS))
    for direction, name in enumerate(DIRECTIONS):
        order = range(num_blocks) if direction == 0 else range(num_blocks - 1, -1, -1)
        for block in order:
            dispatch = exchange.dispatch_bytes(direction, block)
            dispatch_s = exchange_seconds(cluster, dispatch)
            combine_s = exchange_seconds(cluster, dispatch.T)
            for sublayer in (0, 1) if direction == 0 else (1, 0):
                title = SUBLAYERS[sublayer]
                at = _Place(wave, name, block)
                yield at.computing("trunk", sublayer_trunk_s[direction])
                yield at.moving(f"{title} dispatch", dispatch_s, dispatch)
                yield at.computing(f"{title} lanes", work.lanes_s[direction, block, sublayer])
                yield at.moving(f"{title} combine", combine_s, dispatch.T)


def _update_phases(
    workload: Workload, cluster: Cluster, placement: Placement, last_wave: int
) -> Iterator[Phase]:
    owners, at = placement.owners, _Place(last_wave, "update", -1)
    if len(owners) > 1:
        chunk = workload.shape.trunk_parameters * workload.element_bytes / len(owners)
        step_bytes = np.zeros((len(cluster.devices),) * 2)
        for source, target in zip(owners, (*owners[1:], owners[0]), strict=True):
            step_bytes[source, target] = chunk
        num_steps = 2 * (len(owners) - 1)
        seconds = num_steps * exchange_seconds(cluster, step_bytes)
        yield at.moving("trunk all-reduce", seconds, num_steps * step_bytes)
    yield at.computing("optimizer", optimizer_seconds(workload, cluster, placement))
