"""One training step on a cluster, phase by phase, as the runtime executes it.

Within a block and sub-layer, forward: trunk on the owners, dispatch, lanes, combine; backward the
same in reverse. An exchange in which nothing moves is left out. At the end the trunk's gradients
are all-reduced over the owners (ring), those of adapters' shared factors over the devices with
subnets, and every device updates its parameters.

Bulk-synchronous, every phase ends with a barrier: an exchange is a collective, and a block's
combine needs the partial sums of all devices. Waves pass through the model one after another, each
forward and backward. Overlapped, all waves go forward and then all go backward, and the exchanges
of one are under way while others compute; `sim.timetable` says in which order. Then no wave's
activations are freed before all have gone forward, so memory is that of a single wave.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from math import isfinite

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS, plan_exchange
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import (
    device_memory,
    shared_block_parameters,
    trained_trunk_parameters,
)
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan import Plan
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.waves import wave_microbatches
from sim.network.collectives import all_reduce
from sim.network.exchange_time import ExchangeTimes
from sim.prediction import Phase, Prediction
from sim.timetable import UPDATE, interleaved, timetable
from sim.work import optimizer_seconds, wave_work


def simulate_plan(plan: Plan, cluster: Cluster | None = None, overlap: bool = False) -> Prediction:
    """Simulate a plan on its own cluster, or on another with as many devices.

    Args:
        plan: what to execute.
        cluster: where; default the plan's own.
        overlap: whether the plan's waves are overlapped.
    """
    return simulate_step(
        plan.workload,
        cluster or plan.cluster,
        plan.placement,
        plan.schedule,
        plan.num_waves,
        overlap=overlap,
    )


def simulate_step(
    workload: Workload,
    cluster: Cluster,
    placement: Placement,
    schedule: np.ndarray,
    num_waves: int = 1,
    overlap: bool = False,
) -> Prediction:
    """Simulate one step of a schedule.

    Args:
        workload: model, partition and mini-batch.
        cluster: devices and links.
        placement: device of every subnet, owner of every micro-batch.
        schedule: int ``[num_subnets, num_microbatches]``.
        num_waves: groups of micro-batches.
        overlap: whether they are overlapped; with one wave that changes nothing.

    Raises:
        InputError: the cluster is so slow that the step's seconds are no finite number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        times = ExchangeTimes(cluster)
        waves = [
            list(_wave_phases(workload, times, placement, schedule, wave, microbatches))
            for wave, microbatches in enumerate(
                wave_microbatches(workload.num_microbatches, num_waves)
            )
        ]
        phases = list(interleaved(waves) if overlap else chain.from_iterable(waves))
        phases.extend(_update_phases(workload, times, placement, num_waves - 1))
        timed = timetable(phases, overlap)
    if not all(isfinite(p.end_s) for p in timed):
        raise InputError(
            f"cluster {cluster.name!r}: its devices or links are so slow that the seconds of a "
            f"step are no finite number; make them faster"
        )
    return Prediction(
        cluster=cluster,
        phases=timed,
        flops=step_flops(workload, schedule, placement),
        memory=device_memory(workload, placement, schedule, 1 if overlap else num_waves),
        is_overlapped=overlap and num_waves > 1,
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
    times: ExchangeTimes,
    placement: Placement,
    schedule: np.ndarray,
    wave: int,
    microbatches: np.ndarray,
) -> Iterator[Phase]:
    in_wave = schedule
    if len(microbatches) < workload.num_microbatches:
        in_wave = np.zeros_like(schedule)
        in_wave[:, microbatches] = schedule[:, microbatches]
    exchange = plan_exchange(workload, placement, in_wave)
    work = wave_work(workload, times.cluster, placement, schedule, microbatches)
    num_blocks = workload.shape.num_blocks
    sublayer_trunk_s = work.trunk_s / (num_blocks * len(SUBLAYERS))
    for direction, name in enumerate(DIRECTIONS):
        dispatches = [exchange.dispatch_bytes(direction, block) for block in range(num_blocks)]
        dispatch_s = times.seconds_of_each(dispatches)
        combine_s = dispatch_s
        if not times.is_mirrored:
            combine_s = times.seconds_of_each([d.T for d in dispatches])
        for block in range(num_blocks) if direction == 0 else range(num_blocks - 1, -1, -1):
            at, dispatch = _Place(wave, name, block), dispatches[block]
            moves = dispatch.any()
            for sublayer in (0, 1) if direction == 0 else (1, 0):
                title = SUBLAYERS[sublayer]
                yield at.computing("trunk", sublayer_trunk_s[direction])
                if moves:
                    yield at.moving(f"{title} dispatch", dispatch_s[block], dispatch)
                yield at.computing(f"{title} lanes", work.lanes_s[direction, block, sublayer])
                if moves:
                    yield at.moving(f"{title} combine", combine_s[block], dispatch.T)


def _update_phases(
    workload: Workload, times: ExchangeTimes, placement: Placement, last_wave: int
) -> Iterator[Phase]:
    at = _Place(last_wave, UPDATE, -1)
    shared = workload.shape.num_blocks * shared_block_parameters(workload)
    for name, members, parameters in (
        ("trunk", placement.owners, trained_trunk_parameters(workload)),
        ("adapter", tuple(sorted(set(placement.subnet_device))), shared),
    ):
        if len(members) > 1 and parameters:
            reduced = all_reduce(times, members, parameters * workload.parameter_bytes)
            yield at.moving(f"{name} all-reduce", reduced.seconds, reduced.pair_bytes)
    yield at.computing("optimizer", optimizer_seconds(workload, times.cluster, placement))
