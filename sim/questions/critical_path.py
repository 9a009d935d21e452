"""The chain of work and messages that makes a step as long as it is."""

from dataclasses import dataclass

import numpy as np

from sim.prediction import Phase, Prediction

TIME_TOLERANCE = 1e-9
"""Part of the step by which an end and the start that it allows may differ."""
NETWORK = -1


@dataclass(frozen=True)
class Segment:
    """A link of the chain: the next one begins when it ends.

    Attributes:
        phase: that it belongs to.
        devices: those that compute in just this interval; () where messages are under way.
        start_s, end_s: of this part of the phase.
    """

    phase: Phase
    devices: tuple[int, ...]
    start_s: float
    end_s: float


def critical_path(prediction: Prediction) -> tuple[Segment, ...]:
    """The segments from the start of the step to its end, without a gap, in order of time.

    A walk back from what ends last: before a segment comes what ended when it began. Where several
    did, the same wave of the same replica is preferred, then the same device (or the network after
    the network). In a bulk-synchronous step of one replica this is every phase that takes time,
    with its slowest devices, but for sums of gradients that backward hides.
    """
    phase, device, start_s, end_s = _intervals(prediction)
    tolerance_s = TIME_TOLERANCE * float(end_s[-1])
    chain_of = np.array([(p.replica, p.wave) for p in prediction.phases])[phase]
    chain = [len(end_s) - 1]
    while True:
        current = chain[-1]
        before = np.arange(np.searchsorted(end_s, start_s[current] + tolerance_s, side="right"))
        before = before[start_s[before] < start_s[current]]
        if not before.size:
            break
        before = before[end_s[before] >= end_s[before[-1]] - tolerance_s]
        preferred = np.lexsort(
            (
                before,
                device[before] == device[current],
                (chain_of[before] == chain_of[current]).all(axis=1),
            )
        )
        chain.append(int(before[preferred[-1]]))
    return tuple(
        _segment(prediction.phases[phase[k]], int(device[k]), start_s[k], end_s[k])
        for k in reversed(chain)
    )


def _intervals(prediction: Prediction) -> tuple[np.ndarray, ...]:
    """Everything that takes time, by its end: index of the phase, device, start and end."""
    columns: list[np.ndarray] = []
    for index, phase in enumerate(prediction.phases):
        if phase.device_s is not None:
            starts_s, ends_s = phase.device_interval_s()
            busy = np.flatnonzero(ends_s > starts_s)
            columns.append(
                np.stack([np.full(len(busy), index), busy, starts_s[busy], ends_s[busy]])
            )
        elif phase.duration_s > 0:
            columns.append(np.array([[index], [NETWORK], [phase.start_s], [phase.end_s]]))
    phase_index, device, start_s, end_s = np.concatenate(columns, axis=1)
    order = np.lexsort((start_s, end_s))
    return (
        phase_index[order].astype(int),
        device[order].astype(int),
        start_s[order],
        end_s[order],
    )


def _segment(phase: Phase, device: int, start_s: float, end_s: float) -> Segment:
    if device == NETWORK:
        return Segment(phase, (), float(start_s), float(end_s))
    starts_s, ends_s = phase.device_interval_s()
    near = TIME_TOLERANCE * (end_s - start_s) + 4 * np.spacing(end_s)
    alike = (np.abs(starts_s - start_s) <= near) & (np.abs(ends_s - end_s) <= near)
    return Segment(phase, tuple(np.flatnonzero(alike).tolist()), float(start_s), float(end_s))
