"""Plans of one kind on one way: some samples run, some subnets rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.deployment import Deployment
from sim.ways.estimate.deal import Dealt, load_schedule, with_left_out
from sim.ways.estimate.load import Load, dense_load
from sim.ways.estimate.steps import Groups, Levelled, WaySteps
from sim.ways.price import Priced, price
from sim.ways.way import Way

MAX_CORRECTIONS = 5
"""Times that samples are chosen anew by what was predicted for those chosen before."""
CORRECTION = 1e-3
"""Relative, of the estimate besides."""


@dataclass(frozen=True, eq=False)
class Candidate(Deployment):
    """A deployment of the whole mini-batch, micro-batches that are left out among it, its schedule
    and the step that it takes.

    Attributes:
        method: "dense", "fewer samples", "rest" or "scores".
        load: samples that run and blocks that train; None of a schedule by scores.
        schedule: int8 ``[num_subnets, num_microbatches]``.
        samples: that each replica runs.
        priced: the predicted step.
    """

    method: str
    load: Load | None
    schedule: np.ndarray
    samples: tuple[int, ...]
    priced: Priced

    @property
    def step_s(self) -> float:
        return self.priced.step_s

    @property
    def groups(self) -> Groups:
        return tuple(replica.devices for replica in self.replicas)

    @property
    def num_samples(self) -> int:
        return sum(self.samples)


def method_of(steps: WaySteps, load: Load) -> str:
    """What a plan of such a load is called."""
    if not load.is_dense:
        return "rest"
    return "dense" if load.num_samples == steps.num_samples else "fewer samples"


def candidate(steps: WaySteps, found: Levelled) -> Candidate:
    """The plan of some shares; see `with_left_out` for samples that do not run."""
    return _of_dealt(steps, steps.deal(found.groups, found.shares), found.load, found.shares)


def as_candidate(steps: WaySteps, way: Way) -> Candidate:
    """The plan that runs the samples of a way dense and leaves out all others."""
    dealt = Dealt(way.workload, way.replicas, np.ones(way.workload.num_microbatches, dtype=bool))
    return _of_dealt(steps, dealt, dense_load(steps.workload, sum(way.samples)), way.samples)


def whole_deal(steps: WaySteps, running: Dealt, load: Load, shares: tuple[int, ...]) -> Dealt:
    """Dealt samples that run, and in proportion to them those of the mini-batch that do not."""
    left_out = _in_proportion(steps.num_samples - load.num_samples, shares)
    return with_left_out(running, left_out)


def _of_dealt(steps: WaySteps, running: Dealt, load: Load, shares: tuple[int, ...]) -> Candidate:
    dealt = whole_deal(steps, running, load, shares)
    deployment = Deployment(dealt.workload, steps.cluster, dealt.replicas)
    schedule = load_schedule(dealt, load)
    return Candidate(
        **vars(deployment),
        method=method_of(steps, load),
        load=load,
        schedule=schedule,
        samples=shares,
        priced=price(deployment, schedule),
    )


def _in_proportion(total: int, shares: Sequence[int]) -> tuple[int, ...]:
    ends = np.cumsum(shares) * total // sum(shares)
    return tuple(np.diff(ends, prepend=0).tolist())


def most_within(
    steps: WaySteps, groups: Groups, load: Load, at_least: int, limit_s: float
) -> Candidate | None:
    """On given replicas, the plan of most samples whose step takes at most so long.

    Args:
        steps: prices.
        groups: devices of each replica.
        load: the blocks that train, and the most samples.
        at_least: samples below which no plan is of interest.
        limit_s: seconds of the predicted step.

    Returns:
        None where none was found; the search goes by the estimate, corrected by what is predicted.
    """

    def levelled(number: int, estimate_s: float) -> Levelled | None:
        found = steps.level(groups, replace(load, num_samples=number))
        return found if found is not None and found.step_s <= estimate_s else None

    estimate_s = limit_s
    for _ in range(MAX_CORRECTIONS):
        low, high = at_least, load.num_samples
        while low < high:
            middle = (low + high + 1) // 2
            if levelled(middle, estimate_s) is None:
                high = middle - 1
            else:
                low = middle
        found = levelled(low, np.inf)
        if found is None:
            return None
        made = candidate(steps, found)
        if made.priced.fits and made.step_s <= limit_s:
            return made
        if low == at_least or not made.priced.fits:
            return None
        estimate_s = min(estimate_s, found.step_s) * limit_s / made.step_s * (1 - CORRECTION)
    return None
