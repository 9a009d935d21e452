"""Random schedules that spend what a plan may spend: the contrast to choosing by score."""

import time
from dataclasses import replace

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import check_schedule
from d2ft_sched.solvers.baselines.moves import apply_moves, full_then_forward, heuristic_solution


def solve_random(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    reference: np.ndarray | None = None,
) -> Solution:
    """A random schedule that uses up the capacities, or costs what another schedule costs.

    Args:
        problem: any.
        time_limit_s: not used.
        seed: of the order in which items are drawn.
        reference: schedule whose spending each knapsack gets: its num_full and num_forward_only,
            and where costs are unequal, what else fits into what it spends. By default FULL while
            it fits, then FORWARD_ONLY.

    Raises:
        InputError: the reference is not a schedule of this problem.
    """
    begin = time.perf_counter()
    order = np.random.default_rng(seed).permutation(problem.num_items)
    if reference is None:
        item, operation = full_then_forward(order)
        method = "random order, FULL while it fits, then FORWARD_ONLY"
    else:
        problem, item, operation = _like_reference(problem, reference, order)
        method = "random order, at the cost of the reference"
    schedule = apply_moves(problem, item, operation)
    return heuristic_solution(problem, schedule, begin, "random", method)


def _like_reference(
    problem: Problem, reference: np.ndarray, order: np.ndarray
) -> tuple[Problem, np.ndarray, np.ndarray]:
    """The problem with the reference's spending as capacity, and moves to use it up."""
    shape = (problem.num_subnets, problem.num_microbatches)
    try:
        reference = check_schedule(reference, *shape)
    except InputError as error:
        raise InputError(f"reference: {error}") from None
    spent = np.minimum(problem.spending(reference), problem.capacity)
    reference = reference.ravel()
    knapsack = problem.knapsack.ravel()
    count = [
        np.bincount(knapsack[reference == o], minlength=problem.num_knapsacks)
        for o in (Operation.FULL, Operation.FORWARD_ONLY)
    ]
    more_items, more_operations = full_then_forward(order)
    order = order[np.argsort(knapsack[order], kind="stable")]
    owner = knapsack[order]
    size = np.bincount(knapsack, minlength=problem.num_knapsacks)
    rank = np.arange(len(order)) - (np.cumsum(size) - size)[owner]
    operation = np.where(rank < count[0][owner], Operation.FULL, Operation.FORWARD_ONLY)
    wanted = rank < (count[0] + count[1])[owner]
    return (
        replace(problem, capacity=spent),
        np.concatenate([order[wanted], more_items]),
        np.concatenate([operation[wanted], more_operations]),
    )
