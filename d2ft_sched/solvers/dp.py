"""The best algorithm for each problem: exact where that is possible, certified where it is not."""

import time
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import (
    OPTIMALITY_TOLERANCE,
    Solution,
    Status,
    checked_solution,
    no_schedule,
)
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.coupled.lagrangian import solve_lagrangian
from d2ft_sched.solvers.gains import on_gains
from d2ft_sched.solvers.mip import MIP_TOLERANCE, solve_mip
from d2ft_sched.solvers.single.equal_costs import (
    equal_cost_batches,
    has_equal_costs,
    solve_equal_costs,
)
from d2ft_sched.solvers.single.knapsacks import Knapsacks, knapsack_runs
from d2ft_sched.solvers.single.scaled_batch import scaled_batches
from d2ft_sched.solvers.single.unequal_costs import solve_unequal_costs

RUN_ITEMS = 32_768
"""Items that are worked on at a time: memory is bounded and arrays stay near the core."""

CLOSING_ITEMS = 2_000
"""Coupled problems of up to this many items are handed to SCIP if a gap is left."""

CLOSING_WORK = 100_000
"""Nodes times items that it gets: some 10 s."""

MAX_STATES = 8_192
"""States per knapsack of the search over unequal costs."""


@dataclass
class _Tally:
    """What happened so far."""

    bound: float = 0.0
    num_equal: int = 0
    num_searched: int = 0
    num_cut: int = 0
    infeasible: bool = False
    unresolved: bool = False

    @property
    def method(self) -> str:
        parts = []
        if self.num_equal:
            parts.append(f"exact over counts for {self.num_equal} knapsacks of equal costs")
        if self.num_searched:
            parts.append(f"exact core search for {self.num_searched} knapsacks of unequal costs")
        if self.num_cut:
            parts.append(f"core search cut off with a bound for {self.num_cut} knapsacks")
        return "; ".join(parts)


@on_gains
def solve_dp(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    max_states: int = MAX_STATES,
    max_nodes: int | None = None,
) -> Solution:
    """Joint optimum over all three operations.

    Knapsacks whose items cost the same are solved exactly over counts; others by a core search
    that is exact unless it meets its limits, and has a bound then. Shared constraints are met by
    Lagrangian decomposition over these; where that leaves a gap and the problem is small, SCIP
    closes it. Deterministic.

    Args:
        problem: any.
        time_limit_s: ends the search over unequal costs, and the rounds of the decomposition.
        seed: not used.
        max_states: most states per knapsack of that search.
        max_nodes: of SCIP, see `solve_mip`; default by the size of the problem.
    """
    if problem.shared:
        return _solve_coupled(problem, time_limit_s, seed, max_nodes)
    begin = time.perf_counter()
    deadline = float("inf") if time_limit_s is None else begin + time_limit_s
    value = problem.value.reshape(-1, NUM_OPERATIONS)
    operation = np.zeros(problem.num_items, dtype=np.int8)
    tally = _Tally()
    num_left = problem.num_items
    for run in knapsack_runs(problem, RUN_ITEMS):
        equal = has_equal_costs(run)
        _solve_equal(run.take_where(equal), value, operation, tally)
        now = time.perf_counter()
        share = (deadline - now) * run.num_items / num_left
        _solve_unequal(run.take_where(~equal), value, operation, tally, max_states, now + share)
        num_left -= run.num_items
        if tally.infeasible:
            break
    solve_s = time.perf_counter() - begin
    if tally.infeasible or tally.unresolved:
        proven = "proven" if tally.infeasible else "search ended before a feasible choice was found"
        return no_schedule(
            Status.INFEASIBLE if tally.infeasible else Status.TIME_LIMIT,
            upper_bound=float("-inf") if tally.infeasible else tally.bound,
            build_s=0.0,
            solve_s=solve_s,
            solver="dp",
            method=f"no choice fits a knapsack: {proven}",
        )
    return checked_solution(
        problem,
        operation.reshape(problem.num_subnets, problem.num_microbatches),
        upper_bound=tally.bound,
        status=Status.FEASIBLE if time.perf_counter() < deadline else Status.TIME_LIMIT,
        build_s=0.0,
        solve_s=solve_s,
        solver="dp",
        method=tally.method,
    )


def _solve_coupled(
    problem: Problem, time_limit_s: float | None, seed: int, max_nodes: int | None
) -> Solution:
    begin = time.perf_counter()
    found = solve_lagrangian(problem, time_limit_s=time_limit_s, seed=seed)
    left_s = None if time_limit_s is None else time_limit_s - (time.perf_counter() - begin)
    settled = found.status in (Status.OPTIMAL, Status.INFEASIBLE)
    if settled or problem.num_items > CLOSING_ITEMS or (left_s is not None and left_s <= 0):
        return found
    if max_nodes is None:
        max_nodes = max(1, CLOSING_WORK // problem.num_items)
    closing = solve_mip(
        problem, time_limit_s=left_s, seed=seed, start=found.schedule, max_nodes=max_nodes
    )
    build_s, solve_s = found.build_s + closing.build_s, found.solve_s + closing.solve_s
    method = f"{found.method}; then {closing.method}"
    if closing.status == Status.INFEASIBLE or (found.schedule is None and closing.schedule is None):
        return replace(closing, build_s=build_s, solve_s=solve_s, method=method)
    best = closing if closing.objective > found.objective else found
    assert best.schedule is not None
    return checked_solution(
        problem,
        best.schedule,
        upper_bound=min(found.upper_bound, closing.upper_bound),
        status=best.status,
        build_s=build_s,
        solve_s=solve_s,
        solver="dp",
        method=method,
        tolerance=MIP_TOLERANCE if closing.status == Status.OPTIMAL else OPTIMALITY_TOLERANCE,
    )


def _solve_equal(
    knapsacks: Knapsacks, value: np.ndarray, operation: np.ndarray, tally: _Tally
) -> None:
    for batch in equal_cost_batches(knapsacks):
        chosen, feasible = solve_equal_costs(batch, value)
        item = batch.item[batch.present]
        operation[item] = chosen[batch.present]
        tally.bound += float(value[item, operation[item]].sum())
        tally.num_equal += len(chosen)
        tally.infeasible |= not feasible.all()


def _solve_unequal(
    knapsacks: Knapsacks,
    value: np.ndarray,
    operation: np.ndarray,
    tally: _Tally,
    max_states: int,
    deadline: float,
) -> None:
    for batch in scaled_batches(knapsacks):
        if not batch.possible.all():
            tally.infeasible = True
            return
        result = solve_unequal_costs(batch, value, max_states=max_states, deadline=deadline)
        operation[batch.item[batch.present]] = result.operation[batch.present]
        proven = result.complete
        tally.bound += float(result.bound.sum())
        tally.num_searched += int(proven.sum())
        tally.num_cut += int((~proven).sum())
        tally.infeasible |= bool((np.isneginf(result.value) & proven).any())
        tally.unresolved |= bool(np.isneginf(result.value).any())
