"""The paper's method (our reading): FULL first, then FORWARD_ONLY in what is left."""

import time

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.shared import NOT_COUNTED, Coverage, SharedLimit
from d2ft_sched.problem.solution import Solution, Status, checked_solution, no_schedule
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from d2ft_sched.solvers.dp import solve_dp


def solve_two_stage(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    full_share: float = 1.0,
) -> Solution:
    """Two knapsacks after each other, each solved exactly, against the joint optimum as bound.

    Stage 1 chooses FULL by backward score (value of FULL less that of FORWARD_ONLY) within
    `full_share` of what each capacity leaves above SHORTCUT, in all resources. Stage 2 chooses
    FORWARD_ONLY among the rest by forward score within what is left. The upper bound is that of the
    joint problem, so that the gap is the loss of deciding in stages; its time is not counted.

    Args:
        problem: without coverage, which neither stage knows.
        time_limit_s: for each stage and for the bound.
        seed: not used.
        full_share: fraction of every capacity that stage 1 may spend; with 1, stage 2 gets what
            full operations happen to leave.

    Raises:
        InputError: the share is out of range, or the problem has a coverage rule.
    """
    if not 0 <= full_share <= 1:
        raise InputError(f"full_share is {full_share}; it must be between 0 and 1")
    for constraint in problem.shared:
        if isinstance(constraint, Coverage):
            raise InputError(f"two-stage knows no coverage; leave out {constraint.name!r}")
    begin = time.perf_counter()
    nothing = np.zeros(problem.num_items, dtype=np.int8)
    operation = _decide(problem, nothing, Operation.FULL, full_share, time_limit_s)
    if operation is not None:
        operation = _decide(problem, operation, Operation.FORWARD_ONLY, 1.0, time_limit_s)
    solve_s = time.perf_counter() - begin
    joint = solve_dp(problem, time_limit_s=time_limit_s)
    method = f"two stages, {full_share:g} of each capacity for FULL; bound: the joint problem"
    if operation is None:
        infeasible = joint.status == Status.INFEASIBLE
        return no_schedule(
            Status.INFEASIBLE if infeasible else Status.TIME_LIMIT,
            upper_bound=joint.upper_bound,
            build_s=0.0,
            solve_s=solve_s,
            solver="two_stage",
            method=method + ("" if infeasible else "; SHORTCUT costs more than a stage has left"),
        )
    return checked_solution(
        problem,
        operation.reshape(problem.num_subnets, problem.num_microbatches),
        upper_bound=joint.upper_bound,
        status=Status.FEASIBLE,
        build_s=0.0,
        solve_s=solve_s,
        solver="two_stage",
        method=method,
    )


def _decide(
    problem: Problem,
    operation: np.ndarray,
    choice: Operation,
    share: float,
    time_limit_s: float | None,
) -> np.ndarray | None:
    """Give `choice` to the best of the items at SHORTCUT; None where nothing is feasible.

    The stage is a problem of its own, in which FULL stands for `choice` and the other two
    operations for SHORTCUT.
    """
    item = np.flatnonzero(operation == Operation.SHORTCUT)
    if not len(item):
        return operation
    value = problem.value.reshape(-1, NUM_OPERATIONS)[item]
    below = Operation.FORWARD_ONLY if choice == Operation.FULL else Operation.SHORTCUT
    stage_value = np.zeros((len(item), 1, NUM_OPERATIONS))
    stage_value[:, 0, Operation.FULL] = value[:, choice] - value[:, below]
    stands_for = np.array([Operation.SHORTCUT, Operation.SHORTCUT, choice])
    cost = problem.cost.reshape(problem.num_resources, problem.num_items, NUM_OPERATIONS)
    stage_cost = cost[:, item][:, :, stands_for][:, :, None]
    knapsack = problem.knapsack.ravel()
    capacity = (
        np.stack(
            [
                _left(c, operation, knapsack, item, problem.capacity[:, r], share)
                for r, c in enumerate(cost)
            ],
            axis=1,
        )
        if len(cost)
        else problem.capacity
    )
    stage = Problem(
        value=stage_value,
        cost=stage_cost,
        knapsack=knapsack[item],
        capacity=capacity,
        shared=tuple(
            _shared_left(c, cost, operation, item, share)
            for c in problem.shared
            if isinstance(c, SharedLimit)
        ),
    )
    solution = solve_dp(stage, time_limit_s=time_limit_s)
    if solution.schedule is None:
        return None
    decided = operation.copy()
    decided[item[solution.schedule[:, 0] == Operation.FULL]] = choice
    return decided


def _shared_left(
    limit: SharedLimit, cost: np.ndarray, operation: np.ndarray, item: np.ndarray, share: float
) -> SharedLimit:
    group = limit.group.ravel()
    capacity = _left(cost[limit.resource], operation, group, item, limit.capacity, share)
    return SharedLimit(limit.resource, group[item][:, None], capacity, limit.name)


def _left(
    cost: np.ndarray,
    operation: np.ndarray,
    group: np.ndarray,
    item: np.ndarray,
    capacity: np.ndarray,
    share: float,
) -> np.ndarray:
    """What the undecided items of each group may spend: SHORTCUT, and `share` of what is above."""
    num_groups = len(capacity)
    counted = np.flatnonzero(group != NOT_COUNTED)
    spent = cost[counted, operation[counted]]
    decided = operation[counted] != Operation.SHORTCUT
    taken = np.bincount(group[counted[decided]], spent[decided], minlength=num_groups)
    shortcut = np.bincount(group[counted[~decided]], spent[~decided], minlength=num_groups)
    left = np.maximum(capacity - taken, 0.0)
    above = np.where(np.isfinite(left), np.maximum(left - shortcut, 0.0), 0.0)
    return np.where(np.isfinite(left), np.minimum(left, shortcut + share * above), np.inf)
