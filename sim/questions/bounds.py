"""What bounds a step: the device or link that each phase of its critical path waits for."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from d2ft_sched.cluster.cluster import Cluster
from sim.network.exchange_time import channel_seconds, link_loads
from sim.prediction import Phase, Prediction
from sim.questions.critical_path import Segment, critical_path

TIE = 1e-9
"""Relative difference up to which resources bind together."""


class ResourceKind(StrEnum):
    """What a phase may wait for."""

    DEVICE = "device"
    LINK = "link"
    LATENCY = "latency"


@dataclass(frozen=True)
class Bottleneck:
    """Resources that bind together: faster ones help only if all of them are.

    Attributes:
        kind: of the resources.
        members: indices in the cluster's `devices` or `links`; () for latency.
    """

    kind: ResourceKind
    members: tuple[int, ...] = ()

    def names(self, cluster: Cluster) -> tuple[str, ...]:
        """Names of devices, or of links as "a - b"."""
        if self.kind == ResourceKind.DEVICE:
            return tuple(cluster.devices[d].name for d in self.members)
        return tuple(f"{k.source} - {k.target}" for k in (cluster.links[m] for m in self.members))


LATENCY = Bottleneck(ResourceKind.LATENCY)


@dataclass(frozen=True)
class Bound:
    """A part of the critical path and what it waits for.

    Attributes:
        phase: that it belongs to.
        bottleneck: what it waits for.
        start_s: when this part begins.
        seconds: of this part.
        resource_s: after how many seconds each device or link is done, float ``[num_devices]`` or
            ``[num_links]``; 0 for one that has nothing to do, empty for latency. Of an
            overlapped step only the members of `bottleneck` where others take their time.
    """

    phase: Phase
    bottleneck: Bottleneck
    start_s: float
    seconds: float
    resource_s: np.ndarray

    def next_s(self, members: Collection[int]) -> float:
        """Seconds of the slowest of the resources other than `members`; 0 if these work alone."""
        return float(np.delete(self.resource_s, list(members)).max(initial=0.0))


def step_bounds(prediction: Prediction) -> tuple[Bound, ...]:
    """What each part of the critical path waits for, in order of time.

    Computation waits for its slowest device. Messages wait for the link that is busiest in either
    direction, sums of gradients for exchanges to leave it to them, too; what they take longer than
    that is put down to latency: the latencies of routes, and
    time in which fair sharing leaves the busiest link partly idle.
    """
    return tuple(
        bound
        for segment in critical_path(prediction)
        for bound in (
            [_computing(segment)] if segment.devices else _moving(prediction.cluster, segment)
        )
    )


def _computing(segment: Segment) -> Bound:
    seconds = segment.end_s - segment.start_s
    starts_s, ends_s = segment.phase.device_interval_s()
    device_s = np.where(ends_s > starts_s, np.maximum(0.0, ends_s - segment.start_s), 0.0)
    is_last = segment.end_s >= segment.phase.end_s - TIE * seconds
    if not is_last:
        device_s = np.where(np.isin(np.arange(len(device_s)), segment.devices), device_s, 0.0)
    bottleneck = Bottleneck(ResourceKind.DEVICE, segment.devices)
    return Bound(segment.phase, bottleneck, segment.start_s, seconds, device_s)


def _moving(cluster: Cluster, segment: Segment) -> list[Bound]:
    phase, seconds = segment.phase, segment.end_s - segment.start_s
    assert phase.pair_bytes is not None
    carried = link_loads(cluster, phase.pair_bytes)
    link_s = channel_seconds(cluster, carried).reshape(-1, 2).max(axis=1)
    transfer_s = min(seconds, float(link_s.max()) + phase.yielded_s)
    busiest = np.flatnonzero(link_s >= link_s.max() * (1 - TIE))
    links = Bottleneck(ResourceKind.LINK, tuple(busiest.tolist()))
    rest_s = seconds - transfer_s
    if rest_s <= TIE * seconds:
        return [Bound(phase, links, segment.start_s, seconds, link_s)]
    return [
        Bound(phase, LATENCY, segment.start_s, rest_s, np.zeros(0)),
        Bound(phase, links, segment.start_s + rest_s, transfer_s, link_s),
    ]


def bottleneck_seconds(bounds: tuple[Bound, ...]) -> dict[Bottleneck, float]:
    """Seconds of the step that each bottleneck bounds, the most first."""
    total: dict[Bottleneck, float] = {}
    for bound in bounds:
        total[bound.bottleneck] = total.get(bound.bottleneck, 0.0) + bound.seconds
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def what_bounds(prediction: Prediction) -> pd.DataFrame:
    """What bounds the step, the most first.

    Columns: kind; resource, the names of devices or links, those that bind together joined by ", ";
    num_resources; num_parts of the critical path; bound_s, which add up to the step; share
    of the step.
    """
    bounds = step_bounds(prediction)
    num_parts: dict[Bottleneck, int] = {}
    for bound in bounds:
        num_parts[bound.bottleneck] = num_parts.get(bound.bottleneck, 0) + 1
    return pd.DataFrame(
        [
            {
                "kind": str(bottleneck.kind),
                "resource": ", ".join(bottleneck.names(prediction.cluster)),
                "num_resources": len(bottleneck.members),
                "num_parts": num_parts[bottleneck],
                "bound_s": seconds,
                "share": seconds / prediction.step_s,
            }
            for bottleneck, seconds in bottleneck_seconds(bounds).items()
        ]
    )


def critical_path_table(prediction: Prediction) -> pd.DataFrame:
    """The critical path, one row per part of a phase.

    Columns: wave, direction, block, phase, start_s, end_s, kind and resource that bound it, next_s,
    how long the slowest of the others takes.
    """
    return pd.DataFrame(
        [
            {
                "wave": bound.phase.wave,
                "direction": bound.phase.direction,
                "block": bound.phase.block,
                "phase": bound.phase.name,
                "start_s": bound.start_s,
                "end_s": bound.start_s + bound.seconds,
                "kind": str(bound.bottleneck.kind),
                "resource": ", ".join(bound.bottleneck.names(prediction.cluster)),
                "next_s": bound.next_s(bound.bottleneck.members),
            }
            for bound in step_bounds(prediction)
        ]
    )
