"""When each phase of a step starts and ends, given the order in which phases are issued.

Every device computes one thing at a time, in the order of issue, and skips phases in which it has
nothing to do. Exchanges are collectives of one process group: they are carried one after another,
in the order of issue, each starts when all devices have handed in their messages and ends for all
at once. A phase waits for the phase before it of its own wave; those of a parameter update wait for
all waves. If waves are not overlapped, every phase waits for the one before it, whatever its wave.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import accumulate, chain, zip_longest

import numpy as np

from d2ft_sched.costs.exchange import DIRECTIONS
from sim.prediction import Phase

UPDATE = "update"


def timetable(phases: Sequence[Phase], overlap: bool) -> tuple[Phase, ...]:
    """The phases with their starts, in the same order."""
    if not overlap:
        clock_s = chain([0.0], accumulate(p.duration_s for p in phases))
        return tuple(
            Phase(
                p.wave,
                p.direction,
                p.block,
                p.name,
                at_s,
                p.duration_s,
                p.device_s,
                p.pair_bytes,
            )
            for p, at_s in zip(phases, clock_s, strict=False)
        )
    timed = []
    times = phase_times(phases, (p.device_s for p in phases), overlap)
    for phase, (start_s, end_s) in zip(phases, times, strict=True):
        if phase.device_s is None or not phase.device_s.any():
            timed.append(replace(phase, start_s=float(start_s.min())))
            continue
        starts_s = start_s[phase.device_s > 0]
        first_s = float(starts_s.min())
        if (starts_s == first_s).all():
            timed.append(replace(phase, start_s=first_s))
            continue
        duration_s = float(end_s) - first_s
        timed.append(replace(phase, start_s=first_s, duration_s=duration_s, device_start_s=start_s))
    return tuple(timed)


def phase_times(
    phases: Sequence[Phase], device_s: Iterable[np.ndarray | None], overlap: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Start and end of every phase, for many steps at once.

    Args:
        phases: in the order of issue; their own starts are not looked at.
        device_s: by phase, busy seconds of each device, float ``[num_devices]`` or
            ``[num_steps, num_devices]``; not looked at where a phase is an exchange.
        overlap: whether waves are overlapped.

    Yields:
        When each device would start (or the exchange does), float ``[..., num_devices]`` (or
        ``[..., 1]``), and the end, float ``[...]``.
    """
    num_chains = 1 + max(p.wave for p in phases) if overlap else 1
    reached_s = [np.zeros(())] * num_chains
    network_free_s = np.zeros(())
    device_free_s = np.zeros(next(len(p.device_s) for p in phases if p.device_s is not None))
    for phase, busy_s in zip(phases, device_s, strict=True):
        joins_all = phase.direction == UPDATE or not overlap
        waited = range(num_chains) if joins_all else (phase.wave,)
        ready_s = reduce(np.maximum, (reached_s[w] for w in waited))
        if phase.device_s is None or busy_s is None:
            start_s = np.maximum(ready_s, network_free_s)[..., None]
            network_free_s = end_s = start_s[..., 0] + phase.duration_s
        else:
            start_s = np.maximum(ready_s[..., None], device_free_s)
            ends_s = start_s + busy_s
            device_free_s = np.where(busy_s > 0, ends_s, device_free_s)
            end_s = np.where(busy_s > 0, ends_s, ready_s[..., None]).max(axis=-1)
        yield start_s, end_s
        for wave in waited:
            reached_s[wave] = end_s


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
