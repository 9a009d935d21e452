"""Capacities from a budget or from levels: one rule for unequal devices.

A level is a time that all knapsacks of a block may spend, on compute or on messages. Whoever needs
less keeps all its operations; whoever needs more is cut to what it can do in that time. So a slow
device or link is cut first and a fast one keeps its work.

A budget is a fraction of what the dense run spends, in one resource, over the whole cluster: it
sets the levels at which that fraction is dealt out, and equal devices get the fraction each, as in
the paper (our reading). A target step time sets a level for every block instead. Nobody waits for
another's memory, so its budget needs no level: every knapsack gets the fraction of its own (our
reading).
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.problem.resting import POLICIES


@dataclass(frozen=True)
class BlockLevels:
    """Seconds that every device may spend on each block, one entry per block.

    Attributes:
        compute_s: of lanes, forward and backward.
        communication_s: of messages over any one link, dispatch and combine together.

    Raises:
        InputError: lengths differ, or an entry is negative or not finite.
    """

    compute_s: tuple[float, ...]
    communication_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.compute_s) != len(self.communication_s):
            raise InputError(
                f"levels: {counted(len(self.compute_s), 'block')} have a level of compute and "
                f"{len(self.communication_s)} one of communication; every block needs both"
            )
        for name in ("compute_s", "communication_s"):
            for block, level in enumerate(getattr(self, name)):
                if not 0 <= level < float("inf"):
                    raise InputError(
                        f"levels: {name}[{block}] is {level}; it must be 0 or more and finite"
                    )


@dataclass(frozen=True)
class Budget:
    """What a plan may spend: fractions of the dense run of the whole cluster, or levels.

    Attributes:
        compute: fraction of the subnets' FLOPs, above 0 and up to 1.
        communication: fraction of the bytes exchanged, above 0 and up to 1.
        per_block: whether a knapsack is a (device, block) pair, so that every block is level, or a
            device over all its blocks.
        patterns: the most different rows of operations among the subnets of a block on one device,
            None for any; the fewer, the fewer pieces run. With 1 all of them do the same with a
            micro-batch (aligned) and their messages are counted exactly; else those that they share
            are counted as in the dense run, at the least that they can be.
        levels: seconds per block, in place of the levels that the fractions would set.
        target_step_s: the step time that `levels` were chosen for.
        coverage: the least number of subnets of every block that run each micro-batch; with
            `patterns`, of the rows that do.
        memory: fraction of the activations that every knapsack keeps for backward in the dense run,
            above 0 and up to 1; what a device's memory holds bounds them besides.
        resting: how a training chooses which subnets rest in each step, as many as in the schedule,
            a key of `d2ft_sched.problem.resting.POLICIES`; None for those of the schedule, always.

    Raises:
        InputError: a fraction, the patterns or the coverage is out of range, there is no such
            policy, or levels are given for whole devices.
    """

    compute: float = 1.0
    communication: float = 1.0
    per_block: bool = True
    patterns: int | None = None
    levels: BlockLevels | None = None
    target_step_s: float | None = None
    coverage: int = 0
    memory: float = 1.0
    resting: str | None = None

    def __post_init__(self) -> None:
        for name in ("compute", "communication", "memory"):
            fraction = getattr(self, name)
            if not 0 < fraction <= 1:
                raise InputError(
                    f"the {name} budget is {fraction}; it is a fraction of the dense run, "
                    f"above 0 and up to 1"
                )
        if self.patterns is not None and self.patterns < 1:
            raise InputError(
                f"the budget's patterns are {self.patterns}; a block on a device has at least 1"
            )
        if self.coverage < 0:
            raise InputError(f"the coverage is {self.coverage}; it must be at least 0")
        if self.resting is not None and self.resting not in POLICIES:
            raise InputError(
                f"the budget's resting is {self.resting!r}; it must be one of {', '.join(POLICIES)}"
            )
        if self.levels is not None and not self.per_block:
            raise InputError("levels are given per block; a budget per device cannot have them")


def water_level_s(demand: np.ndarray, rate_per_s: np.ndarray, total: float) -> float:
    """The time t at which sum(min(demand, t * rate)) reaches `total`.

    Args:
        demand: amount of the resource that each knapsack would spend in the dense run.
        rate_per_s: amount per second that it can spend; ``inf`` for a free one.
        total: amount to deal, at most ``demand.sum()``.

    Returns:
        Seconds; the largest demand / rate when `total` is the whole demand.
    """
    time_s = np.where(demand > 0, demand / rate_per_s, 0.0)
    order = np.argsort(time_s)
    time_s, demand, rate = time_s[order], demand[order], rate_per_s[order]
    filled = np.concatenate([[0.0], np.cumsum(demand)[:-1]])
    finite_rate = np.where(np.isfinite(rate), rate, 0.0)
    still_open = np.cumsum(finite_rate[::-1])[::-1]
    reached = filled + time_s * still_open
    first = int(np.searchsorted(reached, total))
    if first >= len(demand) or still_open[first] == 0:
        return float(time_s[-1])
    return max(0.0, float((total - filled[first]) / still_open[first]))


def level_capacity(
    demand: np.ndarray, rate_per_s: np.ndarray, group: np.ndarray, budget: float
) -> np.ndarray:
    """Capacity of each knapsack: what fits under its group's water level.

    Args:
        demand: dense spending of each knapsack, float ``[num_knapsacks]``.
        rate_per_s: amount per second, float ``[num_knapsacks]``, ``inf`` for a free one.
        group: knapsacks that wait for one another (the block, or 0 for all), int
            ``[num_knapsacks]``.
        budget: fraction of each group's dense spending.

    Returns:
        float ``[num_knapsacks]``, ``inf`` where the level does not bind.
    """
    capacity = np.full(len(demand), np.inf)
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        level = water_level_s(
            demand[members], rate_per_s[members], budget * float(demand[members].sum())
        )
        rate = rate_per_s[members]
        allowed = np.full(len(members), np.inf)
        allowed[np.isfinite(rate)] = level * rate[np.isfinite(rate)]
        binds = allowed < demand[members] * (1 - 1e-12)
        capacity[members[binds]] = allowed[binds]
    return capacity
