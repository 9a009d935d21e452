"""One training step on a cluster, phase by phase, as the runtime executes it.

Within a block and sub-layer, forward: trunk on the owners, dispatch, lanes, combine; backward the
same in reverse. An exchange in which nothing moves is left out. Every replica does that with its
own micro-batches. What several devices hold is summed over them (ring) block by block, while
backward goes on with the blocks before; then every device updates the parameters that train.

Bulk-synchronous, every phase ends with a barrier of the replica: an exchange is a collective, and a
block's combine needs the partial sums of all its devices. Waves pass through the model one after
another, each forward and backward. Overlapped, all waves go forward and then all go backward, and
the exchanges of one are under way while others compute; `sim.timetable` says in which order. Then
no wave's activations are freed before all have gone forward, so memory is that of a single wave.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isfinite

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import DIRECTIONS, SUBLAYERS, plan_exchange
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.gradient_sums import EMBEDDING, GradientSum, gradient_sums
from d2ft_sched.costs.lanes.executed_flops import step_wasted_flops
from d2ft_sched.costs.replica_memory import part_devices, replicas_memory
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.replica_part import ReplicaPart
from d2ft_sched.schedule.wave_part import WavePart, wave_parts
from sim.network.collectives import AllReduce, all_reduce
from sim.network.exchange_time import ExchangeTimes
from sim.network.shared_links import replica_clusters
from sim.prediction import TOGETHER, Phase, Prediction
from sim.timetable import UPDATE, interleaved, timetable
from sim.work import optimizer_seconds, wave_work


def simulate_plan(plan: Plan, cluster: Cluster | None = None, overlap: bool = False) -> Prediction:
    """Simulate a plan on its own cluster, or on another with as many devices.

    Args:
        plan: what to execute.
        cluster: where; default the plan's own.
        overlap: whether the plan's waves are overlapped.
    """
    return simulate_step(plan.on(cluster) if cluster else plan, plan.schedule, overlap)


def simulate_step(
    deployment: Deployment, schedule: np.ndarray, overlap: bool = False
) -> Prediction:
    """Simulate one step.

    Args:
        deployment: replicas of a model, on their cluster.
        schedule: int ``[num_subnets, num_microbatches]``.
        overlap: whether the waves of each replica are overlapped; with one wave that changes
            nothing.

    Raises:
        InputError: the cluster is so slow that the step's seconds are no finite number.
    """
    workload, cluster = deployment.workload, deployment.cluster
    replicas, parts = deployment.replicas, deployment.parts_of(schedule)
    sums = gradient_sums(workload, replicas, schedule)
    devices = [None if part.is_idle else part_devices(part, cluster.devices) for part in parts]
    with np.errstate(over="ignore", invalid="ignore"):
        chains = [
            []
            if part.is_idle
            else _replica_phases(part, ExchangeTimes(own), index, overlap, merging)
            for index, (part, own, merging) in enumerate(
                zip(parts, replica_clusters(cluster, replicas), devices, strict=True)
            )
        ]
        phases = _with_sums(workload, cluster, chains, sums)
        placements = [replica.placement for replica in replicas]
        update_s = optimizer_seconds(workload, cluster, placements, trains_in_step(schedule))
        last_wave = max(replica.num_waves for replica in replicas) - 1
        at_end = Phase(last_wave, UPDATE, -1, "", 0.0, 0.0, replica=TOGETHER)
        phases.append(_computing(at_end, "optimizer", update_s, float(update_s.max())))
        timed = timetable(cluster, phases, overlap)
    if not all(isfinite(p.end_s) for p in timed):
        raise InputError(
            f"cluster {cluster.name!r}: its devices or links are so slow that the seconds of a "
            f"step are no finite number; make them faster"
        )
    return Prediction(
        cluster=cluster,
        phases=timed,
        flops=sum(
            step_flops(part.workload, part.schedule, part.placement)
            for part in parts
            if not part.is_idle
        ),
        wasted_flops=sum(
            step_wasted_flops(part.workload, part.replica, part.schedule, own)
            for part, own in zip(parts, devices, strict=True)
            if not part.is_idle
        ),
        memory=replicas_memory(
            workload, replicas, schedule, sums, overlap=overlap, devices=cluster.devices
        ),
        is_overlapped=overlap and any(replica.num_waves > 1 for replica in replicas),
    )


def simulate_dense(deployment: Deployment, overlap: bool = False) -> Prediction:
    """The step with every operation FULL on all samples; arguments as for `simulate_step`."""
    return simulate_step(deployment, deployment.uniform(Operation.FULL), overlap)


def _computing(at: Phase, name: str, device_s: np.ndarray, longest_s: float) -> Phase:
    """A phase where another, empty one is."""
    return at.moved(name=name, duration_s=longest_s, device_s=device_s)


def _moving(at: Phase, name: str, seconds: float, pair_bytes: np.ndarray) -> Phase:
    return at.moved(name=name, duration_s=seconds, pair_bytes=pair_bytes)


Devices = tuple[Device | None, ...] | None
"""As `d2ft_sched.costs.lanes.lane_groups.lane_groups` takes them."""


def _replica_phases(
    part: ReplicaPart, times: ExchangeTimes, replica: int, overlap: bool, devices: Devices
) -> list[Phase]:
    """All phases of a replica in the order of issue."""
    known: dict[WavePart, list[Phase]] = {}
    waves: list[list[Phase]] = []
    for wave, own in enumerate(wave_parts(part.workload, part.replica, part.schedule)):
        if own in known:
            waves.append([phase.moved(wave=wave) for phase in known[own]])
        else:
            known[own] = list(_wave_phases(own, times, replica, wave, devices))
            waves.append(known[own])
    return list(interleaved(waves) if overlap else chain.from_iterable(waves))


def _with_sums(
    workload: Workload,
    cluster: Cluster,
    chains: Sequence[Sequence[Phase]],
    sums: Sequence[GradientSum],
) -> list[Phase]:
    """The phases of all replicas in the order of issue, sums of a block after all that the last
    wave has to do there; those of the last norm and the classifier with the last block."""
    num_blocks = workload.shape.num_blocks
    if not sums:
        return list(chain.from_iterable(chains))
    times, known = ExchangeTimes(cluster), dict[tuple[tuple[int, ...], int], AllReduce]()
    phases: list[Phase] = []
    done = [0] * len(chains)
    for block in range(num_blocks - 1, EMBEDDING - 1, -1):
        for index, of_replica in enumerate(chains):
            stop = len(of_replica)
            if block > EMBEDDING:
                stop = 1 + max(
                    (
                        at
                        for at, phase in enumerate(of_replica)
                        if phase.block == block and phase.direction == "backward"
                    ),
                    default=-1,
                )
            phases.extend(of_replica[done[index] : stop])
            done[index] = max(done[index], stop)
        for one in sums:
            if min(one.block, num_blocks - 1) != block:
                continue
            key = (one.members, one.num_values)
            if key not in known:
                size_bytes = one.num_values * workload.parameter_bytes
                known[key] = all_reduce(times, one.members, size_bytes)
            phases.append(gradient_sum(one.block, num_blocks, known[key], phases[-1].wave))
    return phases


def gradient_sum(block: int, num_blocks: int, reduced: AllReduce, wave: int) -> Phase:
    """The phase of a sum; `block` as in `GradientSum`."""
    in_block = block if 0 <= block < num_blocks else -1
    at = Phase(wave, "backward", in_block, "", 0.0, 0.0, replica=TOGETHER)
    return _moving(at, "gradient sum", reduced.seconds, reduced.pair_bytes)


def _wave_phases(
    part: WavePart,
    times: ExchangeTimes,
    replica: int,
    wave: int,
    devices: Devices,
) -> Iterator[Phase]:
    exchange = plan_exchange(part.workload, part.placement, part.schedule)
    work = wave_work(part, times.cluster, devices)
    num_blocks = part.workload.shape.num_blocks
    sublayer_trunk_s = work.trunk_s / (num_blocks * len(SUBLAYERS))
    longest_trunk_s, longest_s = sublayer_trunk_s.max(axis=1).tolist(), work.longest_lanes_s
    for direction, name in enumerate(DIRECTIONS):
        dispatches = [exchange.dispatch_bytes(direction, block) for block in range(num_blocks)]
        dispatch_s = times.seconds_of_each(dispatches)
        combine_s = dispatch_s
        if not times.is_mirrored:
            combine_s = times.seconds_of_each([d.T for d in dispatches])
        for block in range(num_blocks) if direction == 0 else range(num_blocks - 1, -1, -1):
            at = Phase(wave, name, block, "", 0.0, 0.0, replica=replica)
            dispatch = dispatches[block]
            moves = dispatch.any()
            for sublayer in (0, 1) if direction == 0 else (1, 0):
                title = SUBLAYERS[sublayer]
                lanes_s = work.lanes_s[direction, block, sublayer]
                lasts_s = longest_s[direction][block][sublayer]
                yield _computing(
                    at, "trunk", sublayer_trunk_s[direction], longest_trunk_s[direction]
                )
                if moves:
                    yield _moving(at, f"{title} dispatch", dispatch_s[block], dispatch)
                yield _computing(at, f"{title} lanes", lanes_s, lasts_s)
                if moves:
                    yield _moving(at, f"{title} combine", combine_s[block], dispatch.T)
