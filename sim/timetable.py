"""When each phase of a step starts and ends, given the order in which phases are issued.

Every device computes one thing at a time, in the order of issue, and skips phases in which it has
nothing to do. Exchanges are collectives of one process group: they are carried one after another,
in the order of issue, each starts when all devices have handed in their messages and ends for all
at once. A phase waits for the phase before it of its own wave; those of a parameter update wait for
all waves. If waves are not overlapped, every phase waits for the one before it, whatever its wave.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from sim.prediction import Phase

UPDATE = "update"


def timetable(phases: Sequence[Phase], overlap: bool) -> tuple[Phase, ...]:
    """The phases with their starts, in the same order."""
    timed = []
    for phase, (start_s, end_s) in zip(phases, phase_times(phases, overlap), strict=True):
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
    phases: Sequence[Phase],
    overlap: bool,
    slowdown: Sequence[np.ndarray] | None = None,
    num_steps: tuple[int, ...] = (),
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Start and end of every phase, for many steps at once.

    Args:
        phases: in the order of issue; their own `start_s` are not looked at.
        overlap: whether waves are overlapped.
        slowdown: by phase, factors on `device_s`, float ``[*num_steps, num_devices]``; default 1.
        num_steps: leading shape of the result.

    Yields:
        Starts, float ``[*num_steps, num_devices]`` (of an exchange ``[*num_steps, 1]``), and the
        end, float ``[*num_steps]``.
    """
    num_chains = 1 + max(p.wave for p in phases) if overlap else 1
    reached_s = np.zeros((num_chains, *num_steps))
    network_s = np.zeros(num_steps)
    num_devices = next(len(p.device_s) for p in phases if p.device_s is not None)
    device_s = np.zeros((*num_steps, num_devices))
    for index, phase in enumerate(phases):
        waves = slice(None) if phase.direction == UPDATE or not overlap else phase.wave
        ready_s = np.max(reached_s[waves], axis=0) if isinstance(waves, slice) else reached_s[waves]
        if phase.device_s is None:
            start_s = np.maximum(ready_s, network_s)
            network_s = end_s = start_s + phase.duration_s
            yield start_s[..., None], end_s
        else:
            work_s = phase.device_s if slowdown is None else phase.device_s * slowdown[index]
            start_s = np.maximum(ready_s[..., None], device_s)
            ends_s = start_s + work_s
            computes = phase.device_s > 0
            device_s = np.where(computes, ends_s, device_s)
            end_s = np.where(computes, ends_s, ready_s[..., None]).max(axis=-1)
            yield start_s, end_s
        reached_s[waves] = end_s


def interleaved(waves: Sequence[Sequence[Phase]]) -> Iterator[Phase]:
    """Phases of several waves in the order in which a runtime issues them when it overlaps them.

    A wave's phases are trunk, dispatch, lanes, combine, over and over. First all waves' trunk and
    dispatch of a sub-layer, wave after wave, then all waves' lanes and combine: so the dispatch of
    one wave is under way while an earlier one computes its lanes, and its combine while a later
    one does.
    """
    pairs = [list(zip(wave[::2], wave[1::2], strict=True)) for wave in waves]
    for of_all_waves in zip(*pairs, strict=True):
        yield from chain.from_iterable(of_all_waves)
