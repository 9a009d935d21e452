"""Which groups of subnets train in a step: drawn anew, in turns, or drawn by scores.

A budget is a fraction of what it would cost (in gradient bytes, say) to train all groups. All ways
are functions of the step (and of scores, where these decide), so that all ranks and every resumed
run agree.
"""

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.seeds import check_seed

TOLERANCE = 1e-9
"""A budget admits this much more, relatively: 0.25 of 12 equal groups admits 3."""


def drawn(step: int, seed: int, setup_cost: np.ndarray, budget: float) -> np.ndarray:
    """Groups drawn uniformly without replacement, anew in each step.

    In a random order, each one that still fits is taken: with equal costs every set of the largest
    number is as likely as any other.

    Args:
        step: from 0.
        seed: of the run.
        setup_cost: of each group, float >= 0 ``[num_groups]``.
        budget: fraction of their sum, from 0 to 1.

    Returns:
        Whether each group trains, bool ``[num_groups]``.

    Raises:
        InputError: an argument is out of range.
    """
    cost = _checked(step, setup_cost, budget)
    rng = np.random.default_rng((check_seed(seed), step))
    return _filled(rng.permutation(len(cost)), cost, budget)


def drawn_by_scores(
    step: int, seed: int, setup_cost: np.ndarray, budget: float, score: np.ndarray
) -> np.ndarray:
    """Groups drawn without replacement, each time as likely as their scores are to one another.

    Args:
        step, seed, setup_cost, budget: as of `drawn`.
        score: of each group, float >= 0 ``[num_groups]``; where all are 0 they count as alike.

    Returns:
        Whether each group trains, bool ``[num_groups]``.

    Raises:
        InputError: an argument is out of range.
    """
    cost = _checked(step, setup_cost, budget)
    score = np.asarray(score, dtype=float)
    if score.shape != cost.shape or not ((score >= 0) & np.isfinite(score)).all():
        raise InputError("scores of groups must be finite numbers of at least 0, one for each")
    rng = np.random.default_rng((check_seed(seed), step))
    weight = score if score.any() else np.ones(len(cost))
    log_weight = np.log(weight, out=np.full(len(cost), -np.inf), where=weight > 0)
    # The largest of log-weights plus Gumbel noise is one drawn by weight, the next one the second.
    order = np.argsort(-log_weight - rng.gumbel(size=len(cost)), kind="stable")
    return _filled(order, cost, budget)


def in_turns(step: int, seed: int, setup_cost: np.ndarray, budget: float) -> np.ndarray:
    """The next groups of a cycle over all of them.

    The cycle is a permutation drawn from the seed. A step takes the groups that follow those of the
    step before, as many as fit however the cycle falls; so any n * num_groups turns in a row visit
    every group n times.

    Args:
        step: from 0.
        seed: of the run.
        setup_cost: of each group, float >= 0 ``[num_groups]``.
        budget: fraction of their sum, from 0 to 1.

    Returns:
        Whether each group trains, bool ``[num_groups]``.

    Raises:
        InputError: an argument is out of range.
    """
    cost = _checked(step, setup_cost, budget)
    cycle = np.random.default_rng(check_seed(seed)).permutation(len(cost))
    twice = np.concatenate([[0.0], np.cumsum(np.tile(cost[cycle], 2))])
    admitted = _admitted(cost, budget)
    count = len(cost)
    while (twice[count : count + len(cost)] - twice[: len(cost)]).max() > admitted:
        count -= 1
    trains = np.zeros(len(cost), dtype=bool)
    trains[cycle[(step * count + np.arange(count)) % len(cost)]] = True
    return trains


def _filled(order: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
    admitted = _admitted(cost, budget)
    trains = np.zeros(len(cost), dtype=bool)
    spent = 0.0
    for group in order:
        if spent + cost[group] <= admitted:
            trains[group] = True
            spent += cost[group]
    return trains


def _admitted(cost: np.ndarray, budget: float) -> float:
    return budget * float(cost.sum()) * (1 + TOLERANCE)


def _checked(step: int, setup_cost: np.ndarray, budget: float) -> np.ndarray:
    cost = np.asarray(setup_cost, dtype=float)
    if step < 0:
        raise InputError(f"step is {step}; it must be at least 0")
    if cost.ndim != 1 or not len(cost) or not ((cost >= 0) & np.isfinite(cost)).all():
        raise InputError("setup_cost must be finite numbers of at least 0, one for each group")
    if not 0 <= budget <= 1:
        raise InputError(f"the budget of setups is {budget}; it is a fraction, from 0 to 1")
    return cost


POLICIES = {"drawn": drawn, "turns": in_turns}
"""Which groups train in a step, by the names that a budget and the command line take."""
