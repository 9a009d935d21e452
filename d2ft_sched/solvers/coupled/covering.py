"""A schedule that keeps a coverage by the cheapest operations, whatever they are worth."""

import numpy as np

from d2ft_sched.problem.problem import CAPACITY_TOLERANCE, Problem
from d2ft_sched.problem.shared import NOT_COUNTED, Coverage
from d2ft_sched.schedule.operations import Operation

TINY = 1e-300
"""In place of a capacity of 0, of which no part is left."""
TRIES = 8
"""Orders of micro-batches that are tried, while some group is not covered."""
JITTER = 1e-3
"""Of shares of knapsacks that are left, so that ties are decided otherwise in every try."""


def covering(
    problem: Problem, coverage: Coverage, capacity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """FORWARD_ONLY for as many subnets of each group as a coverage asks, SHORTCUT for the others.

    Micro-batch by micro-batch, where most of a knapsack is left: the dearest first, then in orders
    drawn anew. It may miss a schedule where knapsacks are all but full; what it finds for a case
    and a group does not depend on the others, but for knapsacks that they share.

    Args:
        problem: whose costs and knapsacks count.
        coverage: to keep.
        capacity: of several cases, float ``[num_cases, num_knapsacks, num_resources]``.

    Returns:
        The schedules, int8 ``[num_cases, num_subnets, num_microbatches]``, and which groups of them
        are covered, bool ``[num_cases, num_groups]``.
    """
    idle = np.full((problem.num_subnets, problem.num_microbatches), Operation.SHORTCUT)
    left = capacity * (1 + CAPACITY_TOLERANCE) - problem.spending(idle)
    schedules = np.repeat(idle[None].astype(np.int8), len(capacity), axis=0)
    num_groups = int(coverage.group.max(initial=NOT_COUNTED)) + 1
    covered = np.ones((len(capacity), num_groups), dtype=bool)
    dearest_first = np.argsort(-problem.cost[..., Operation.FORWARD_ONLY].sum(axis=(0, 1)))
    for group in np.setdiff1d(coverage.group, NOT_COUNTED).tolist():
        covered[:, group] = False
        rows = np.flatnonzero(coverage.group == group)
        for number in range(TRIES):
            cases = np.flatnonzero(~covered[:, group])
            if not len(cases):
                break
            rng = np.random.default_rng(number)
            order = rng.permutation(dearest_first) if number else dearest_first
            runs, after, done = _tried(problem, coverage.minimum, rows, order, left[cases], rng)
            cases = cases[done]
            schedules[np.ix_(cases, rows)] = np.where(
                runs[done], Operation.FORWARD_ONLY, Operation.SHORTCUT
            )
            left[cases] = after[done]
            covered[cases, group] = True
    return schedules, covered


def _tried(
    problem: Problem,
    minimum: int,
    rows: np.ndarray,
    order: np.ndarray,
    left: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows run which micro-batches, bool ``[num_cases, num_rows, num_microbatches]``, what is
    then left of the knapsacks, and which cases are covered, bool ``[num_cases]``."""
    case = np.arange(len(left))
    whole = np.where(np.isfinite(left), np.maximum(left, TINY), 1.0)
    runs = np.zeros((len(left), len(rows), problem.num_microbatches), dtype=bool)
    left, done = left.copy(), np.ones(len(left), dtype=bool)
    added = problem.cost[..., Operation.FORWARD_ONLY] - problem.cost[..., Operation.SHORTCUT]
    for i in order.tolist():
        if not done.any():
            break
        paying, cost = problem.knapsack[rows, i], added[:, rows, i].T
        for _ in range(minimum):
            after = left[:, paying] - cost
            fits = ~runs[..., i] & ((after >= 0) | (cost <= 0)).all(axis=2)
            parts = np.where(cost > 0, np.minimum(after / whole[:, paying], 1.0), 1.0)
            share = parts.min(axis=2, initial=1.0) + JITTER * rng.random(len(rows))
            chosen = np.where(fits, share, -np.inf).argmax(axis=1)
            taken = fits[case, chosen]
            done &= taken
            runs[case[taken], chosen[taken], i] = True
            left[case[taken], paying[chosen[taken]]] -= cost[chosen[taken]]
    return runs, left, done
