"""By how much each resource would have to improve to matter, by simulating the step again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from sim.prediction import Phase, Prediction
from sim.questions.bounds import (
    TIE,
    Bottleneck,
    Bound,
    ResourceKind,
    bottleneck_seconds,
    step_bounds,
)
from sim.questions.what_if import scale_latency, with_faster_devices, with_wider_links

UNLIMITED = 1e12
"""Factor that stands for a resource that takes no time."""


@dataclass(frozen=True)
class Sensitivity:
    """What a better resource would do to a step.

    On a faster device lanes are cut anew, for the fewest seconds of forward and backward together.
    Where others wait for one of the two, the step may even get longer, by far less than 1 %.

    Attributes:
        bottleneck: the resources, all improved together.
        bound_s: seconds of the step that they, or some of them, bound.
        factor: by which they are improved: `factor` times the speed or bandwidth, or latency
            divided by it.
        step_s: simulated with that.
        unlimited_step_s: simulated as if they took no time at all.
        first_saturation: factor up to which more is a gain in every part of the step that they
            bound: beyond it something else binds there. Infinite where nothing else does. Where
            routes differ in latency it is about the links' time alone, and of an overlapped step
            about the parts that they bound as it is; what binds next may be in another wave.
        last_saturation: factor beyond which they bind nowhere, so that more is no gain at all;
            infinite also where the step simulated with it still gains from more, as it may behind
            latencies or in another wave.
    """

    bottleneck: Bottleneck
    bound_s: float
    factor: float
    step_s: float
    unlimited_step_s: float
    first_saturation: float
    last_saturation: float


def sensitivities(
    prediction: Prediction,
    simulate: Callable[[Cluster], Prediction],
    *,
    factor: float = 2.0,
    max_bottlenecks: int = 8,
) -> tuple[Sensitivity, ...]:
    """What better resources would do to a step: of each bottleneck, the most important ones first,
    then of all devices together and all links together.

    Args:
        prediction: of the step.
        simulate: the same step on another cluster with the same devices and links.
        factor: of the improvement to try.
        max_bottlenecks: how many to try; each takes two or three simulations.
    """
    bounds = step_bounds(prediction)
    tried = list(bottleneck_seconds(bounds))[:max_bottlenecks]
    num_own = len(tried)
    tried += [everything for everything in _together(prediction.cluster) if everything not in tried]
    found = [_sensitivity(b, bounds, prediction, simulate, factor) for b in tried]
    return (*sorted(found[:num_own], key=lambda s: -s.bound_s), *found[num_own:])


def _together(cluster: Cluster) -> tuple[Bottleneck, ...]:
    kinds = ((ResourceKind.DEVICE, cluster.devices), (ResourceKind.LINK, cluster.links))
    return tuple(Bottleneck(kind, tuple(range(len(all_)))) for kind, all_ in kinds if all_)


def _sensitivity(
    bottleneck: Bottleneck,
    bounds: Sequence[Bound],
    prediction: Prediction,
    simulate: Callable[[Cluster], Prediction],
    factor: float,
) -> Sensitivity:
    unlimited = simulate(improved(prediction.cluster, bottleneck, UNLIMITED))
    affected = [
        bound
        for bound in bounds
        if bound.bottleneck.kind == bottleneck.kind
        and set(bound.bottleneck.members) <= set(bottleneck.members)
    ]
    index = {id(phase): i for i, phase in enumerate(prediction.phases)}
    saturations = [
        _saturation(bound, bottleneck, unlimited.phases[index[id(bound.phase)]])
        for bound in affected
    ]
    last = max(saturations, default=1.0)
    if np.isfinite(last):
        step_s = simulate(improved(prediction.cluster, bottleneck, last)).step_s
        last = last if step_s <= unlimited.step_s * (1 + TIE) else np.inf
    return Sensitivity(
        bottleneck,
        sum(bound.seconds for bound in affected),
        factor,
        simulate(improved(prediction.cluster, bottleneck, factor)).step_s,
        unlimited.step_s,
        min(saturations, default=1.0),
        last,
    )


def _saturation(bound: Bound, bottleneck: Bottleneck, unlimited: Phase) -> float:
    """Factor at which resources outside of the bottleneck take as long in this part.

    What of a device's time no speed saves, the launches, is what it still takes `unlimited`.
    """
    if bottleneck.kind == ResourceKind.LATENCY:
        return np.inf
    floor_s = 0.0
    if unlimited.device_s is not None:
        floor_s = float(unlimited.device_s[list(bound.bottleneck.members)].max())
    next_s = bound.next_s(bottleneck.members)
    return (bound.seconds - floor_s) / (next_s - floor_s) if next_s > floor_s else np.inf


def improved(cluster: Cluster, bottleneck: Bottleneck, factor: float) -> Cluster:
    """The cluster with these resources `factor` times as good."""
    if bottleneck.kind == ResourceKind.DEVICE:
        return with_faster_devices(cluster, bottleneck.members, factor)
    if bottleneck.kind == ResourceKind.LINK:
        return with_wider_links(cluster, bottleneck.members, factor)
    return scale_latency(cluster, 1 / factor)
