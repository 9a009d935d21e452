"""Plans of one kind on one way: some samples run, some blocks rest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import Replica
from sim.ways.deal import load_schedule
from sim.ways.load import Load
from sim.ways.price import Priced, price
from sim.ways.steps import Groups, Levelled, WaySteps


@dataclass(frozen=True, eq=False)
class Candidate:
    """Replicas, a schedule of the whole mini-batch on them, and the step that it takes.

    Attributes:
        method: "dense", "fewer samples", "rest" or "scores".
        workload: with the micro-batches as dealt, those that are left out among them.
        replicas: copies of the model.
        schedule: int8 ``[num_subnets, num_microbatches]``.
        samples: that each replica runs.
        priced: the predicted step.
    """

    method: str
    workload: Workload
    replicas: tuple[Replica, ...]
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
    """The plan of some shares; samples that do not run are left out as whole micro-batches, dealt
    to the replicas in proportion to what they run."""
    left = steps.num_samples - found.load.num_samples
    left_out = _in_proportion(left, found.shares)
    dealt = steps.deal(found.groups, found.shares, left_out)
    schedule = load_schedule(dealt, found.load)
    return Candidate(
        method=method_of(steps, found.load),
        workload=dealt.workload,
        replicas=dealt.replicas,
        schedule=schedule,
        samples=found.shares,
        priced=price(steps.cluster, dealt, schedule, found.step_s),
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
    """

    def at(number: int) -> Candidate | None:
        found = steps.level(groups, replace(load, num_samples=number))
        made = None if found is None else candidate(steps, found)
        return made if made is not None and made.priced.fits and made.step_s <= limit_s else None

    best = at(load.num_samples)
    if best is not None or load.num_samples <= at_least:
        return best
    low, high = at_least, load.num_samples - 1
    while low <= high:
        middle = (low + high + 1) // 2
        made = at(middle)
        if made is None:
            high = middle - 1
        else:
            best, low = made, middle + 1
    return best


def kept_value(value: np.ndarray, schedule: np.ndarray) -> float:
    """Value of a schedule; of what rests, that of its forward pass.

    Args:
        value: of every operation, float ``[num_subnets, num_microbatches, 3]``.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    counted = np.where(schedule == Operation.REST, Operation.FORWARD_ONLY, schedule)
    return float(np.take_along_axis(value, counted[..., None].astype(int), axis=2).sum())
