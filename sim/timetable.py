"""When each phase of a step starts and ends, given the order in which phases are issued.

Every device computes one thing at a time, in the order of issue, and skips phases in which it has
nothing to do. Exchanges are collectives of the devices of a replica: they are carried one after
another, in the order of issue, each starts when all of them have handed in their messages and ends
for all at once. A phase waits for the phase before it of its own wave; if waves are not overlapped,
for the one before it of its replica, whatever its wave. Replicas do not wait for one another. Sums
of gradients wait for all that was issued before them, and nothing but the parameter update, which
waits for everything, waits for them; see `sim.gradient_overlap`.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain, zip_longest

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.exchange import DIRECTIONS
from sim.gradient_overlap import Contention, contention, sum_times
from sim.prediction import Phase

UPDATE = "update"


def timetable(cluster: Cluster, phases: Sequence[Phase], overlap: bool) -> tuple[Phase, ...]:
    """The phases with their starts, in the same order."""
    timed = list(phases)
    device_s = (p.device_s for p in phases)
    for index, start_s, end_s in phase_times(cluster, phases, device_s, overlap):
        timed[index] = _placed(phases[index], start_s, float(end_s))
    return tuple(timed)


def _placed(phase: Phase, start_s: np.ndarray, end_s: float) -> Phase:
    if phase.device_s is None:
        first_s = float(start_s if start_s.ndim == 0 else start_s.min())
        if not phase.is_sum:
            return phase.moved(start_s=first_s)
        seconds = max(phase.alone_s, end_s - first_s)
        yielded_s = seconds - phase.alone_s
        return phase.moved(start_s=first_s, duration_s=seconds, yielded_s=yielded_s)
    if start_s.ndim == 0:
        return phase.moved(start_s=float(start_s))
    if not phase.device_s.any():
        return phase.moved(start_s=float(start_s.min()))
    starts_s = start_s[phase.device_s > 0]
    first_s = float(starts_s.min())
    if (starts_s == first_s).all():
        return phase.moved(start_s=first_s)
    return phase.moved(start_s=first_s, duration_s=end_s - first_s, device_start_s=start_s)


def phase_times(
    cluster: Cluster,
    phases: Sequence[Phase],
    device_s: Iterable[np.ndarray | None],
    overlap: bool,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Start and end of every phase, for many steps at once.

    Args:
        cluster: whose links the messages take.
        phases: in the order of issue; their own starts are not looked at.
        device_s: by phase, busy seconds of each device, float ``[num_devices]`` or
            ``[num_steps, num_devices]``; not looked at where a phase is an exchange.
        overlap: whether waves are overlapped.

    Yields:
        Index of the phase; when each device would start, float ``[..., num_devices]``, or all of
        them and the messages do, ``[...]``; and the end, float ``[...]``. Sums of gradients come
        after all that they may overlap with.
    """
    found = contention(cluster, phases)
    reached_s: dict[tuple[int, int], np.ndarray] = {}
    network_free_s: dict[int, np.ndarray] = {}
    device_free_s = np.zeros(len(cluster.devices))
    zero_s = np.zeros(())
    sums: list[tuple[int, np.ndarray, float]] = []
    under_way: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for index, (phase, busy_s) in enumerate(zip(phases, device_s, strict=True)):
        if phase.is_sum:
            sums.append((index, reduce(np.maximum, reached_s.values(), zero_s), phase.alone_s))
            continue
        chain_of = (phase.replica, phase.wave if overlap else 0)
        ready_s = reached_s.get(chain_of, zero_s)
        if phase.direction == UPDATE:
            for number, start_s, end_s in _summed(found, sums, under_way):
                reached_s[-1, number] = end_s
                yield number, start_s, end_s
            sums = []
            ready_s = reduce(np.maximum, reached_s.values(), zero_s)
        if phase.device_s is None or busy_s is None:
            start_s = np.maximum(ready_s, network_free_s.get(phase.replica, zero_s))
            network_free_s[phase.replica] = end_s = start_s + phase.duration_s
            under_way[index] = (start_s, end_s)
        elif overlap:
            start_s = np.maximum(ready_s[..., None], device_free_s)
            ends_s = start_s + busy_s
            device_free_s = np.where(busy_s > 0, ends_s, device_free_s)
            end_s = np.where(busy_s > 0, ends_s, ready_s[..., None]).max(axis=-1)
        else:
            longest_s = phase.duration_s if busy_s is phase.device_s else busy_s.max(axis=-1)
            start_s, end_s = ready_s, ready_s + longest_s
        yield index, start_s, end_s
        reached_s[chain_of] = end_s
    yield from _summed(found, sums, under_way)


def _summed(
    found: Contention,
    sums: Sequence[tuple[int, np.ndarray, float]],
    under_way: dict[int, tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for index, (start_s, end_s) in sum_times(found, sums, under_way).items():
        yield index, start_s, end_s


def interleaved(waves: Sequence[Sequence[Phase]]) -> Iterator[Phase]:
    """Phases of several waves in the order in which a runtime issues them when it overlaps them.

    All waves go forward, then all go backward. They take turns, and a turn lasts up to the wave's
    next exchange: so the dispatch of one wave is under way while an earlier one computes its lanes,
    and its combine while a later one does.
    """
    for direction in DIRECTIONS:
        turns = [_turns(p for p in wave if p.direction == direction) for wave in waves]
        for of_all_waves in zip_longest(*turns, fillvalue=()):
            yield from chain.from_iterable(of_all_waves)


def _turns(phases: Iterable[Phase]) -> Iterator[Sequence[Phase]]:
    """The phases up to each exchange, the exchange included, and those after the last one."""
    turn: list[Phase] = []
    for phase in phases:
        turn.append(phase)
        if phase.pair_bytes is not None:
            yield turn
            turn = []
    yield turn
