"""The paper's two stages (arXiv 2504.12471, our reading): exact in each, not jointly.

Stage 1 chooses FULL by an exact 0/1 knapsack on the backward scores, within the share of every
capacity that is given to full operations. Stage 2 chooses FORWARD_ONLY among the rest by an exact
0/1 knapsack on the forward scores, within what is left.
"""

import time
from dataclasses import replace

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.operations import Operation
from d2ft_sched.problem import Problem
from d2ft_sched.solution import Solution, Status, checked_solution, no_schedule
from d2ft_sched.solvers.dp import solve_dp


def solve_two_stage(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    full_share: float = 1.0,
) -> Solution:
    """Two knapsacks one after the other; the gap is the loss against the joint optimum's bound.

    The backward score of an item is value[FULL] - value[FORWARD_ONLY], its forward score
    value[FORWARD_ONLY] - value[SHORTCUT].

    Args:
        problem: without shared constraints.
        time_limit_s: for each of the knapsacks.
        seed: not needed.
        full_share: fraction of every capacity that stage 1 may spend; with 1, stage 2 gets what
            full operations happen to leave.

    Raises:
        InputError: `full_share` is out of range, or the problem has shared constraints.
    """
    if not 0 <= full_share <= 1:
        raise InputError(f"full_share is {full_share}; it must be between 0 and 1")
    if problem.shared:
        raise InputError("two_stage takes no shared constraints; solve such a problem with 'dp'")
    start = time.perf_counter()
    backward = problem.value[..., Operation.FULL] - problem.value[..., Operation.FORWARD_ONLY]
    forward = problem.value[..., Operation.FORWARD_ONLY] - problem.value[..., Operation.SHORTCUT]
    everywhere = np.ones(backward.shape, dtype=bool)
    base = problem.spending(np.zeros(backward.shape, dtype=np.int8))
    room = problem.capacity - base
    build_s = time.perf_counter() - start

    if (base > problem.admitted).any():
        return no_schedule(
            Status.INFEASIBLE, upper_bound=-np.inf, build_s=build_s, solve_s=0.0,
            solver="two_stage", method="SHORTCUT alone breaks a capacity",
        )  # fmt: skip
    start = time.perf_counter()
    is_full = _chosen(
        problem, Operation.FULL, backward, everywhere, base + full_share * room, time_limit_s
    )
    spent = problem.spending(np.where(is_full, Operation.FULL, Operation.SHORTCUT)) - base
    runs = _chosen(
        problem, Operation.FORWARD_ONLY, forward, ~is_full, problem.capacity - spent, time_limit_s
    )
    solve_s = time.perf_counter() - start
    schedule = np.select(
        [is_full, runs], [Operation.FULL, Operation.FORWARD_ONLY], Operation.SHORTCUT
    )
    joint = solve_dp(problem, time_limit_s=time_limit_s, seed=seed)
    return checked_solution(
        problem,
        schedule,
        upper_bound=joint.upper_bound,
        status=Status.FEASIBLE,
        build_s=build_s,
        solve_s=solve_s,
        solver="two_stage",
        method=f"FULL by backward score within {full_share:g} of every capacity, then "
        f"FORWARD_ONLY by forward score; the bound is the joint optimum's",
    )


def _chosen(
    problem: Problem,
    operation: Operation,
    score: np.ndarray,
    candidates: np.ndarray,
    capacity: np.ndarray,
    time_limit_s: float | None,
) -> np.ndarray:
    """The candidates that an exact 0/1 knapsack gives `operation`, bool like `candidates`.

    Every other choice is made worth less than SHORTCUT and as costly as `operation`, so that equal
    costs stay equal.
    """
    value = np.full(problem.value.shape, -1.0 - np.abs(score).max())
    value[..., Operation.SHORTCUT] = 0.0
    value[..., operation] = np.where(candidates, score, value[..., operation])
    cost = np.repeat(problem.cost[..., operation, None], len(Operation), axis=-1)
    cost[..., Operation.SHORTCUT] = problem.cost[..., Operation.SHORTCUT]
    stage = replace(problem, value=value, cost=cost, capacity=np.maximum(capacity, 0.0))
    schedule = solve_dp(stage, time_limit_s=time_limit_s).schedule
    assert schedule is not None
    return schedule == operation
