"""A schedule for every mini-batch from one formulation: capacities stay, values change."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.seeds import following_seed
from d2ft_sched.problem.formulate import Formulation
from d2ft_sched.problem.problem import Problem
from d2ft_sched.solvers.registry import required_options, solve

_STACKED = ("dp", "two_stage", "greedy")
"""Solvers that treat knapsacks apart, so that all mini-batches can be one problem."""


@dataclass(frozen=True, eq=False)
class MinibatchSchedules:
    """Schedules and what finding them took.

    Attributes:
        operations: int8 ``[num_minibatches, num_subnets, num_microbatches]``.
        solve_s: seconds of building and solving, for all of them together.
    """

    operations: np.ndarray
    solve_s: float


def solve_minibatches(
    formulation: Formulation,
    values: Sequence[np.ndarray],
    solver: str = "dp",
    *,
    seed: int = 0,
    **options: Any,
) -> MinibatchSchedules:
    """Solve the same problem for the values of many mini-batches, in one batch where that is exact.

    Args:
        formulation: knapsacks, costs and capacities; its own values are not used.
        values: of every mini-batch, float ``[num_subnets, num_microbatches, 3]`` each.
        solver: a name that `solve` knows.
        seed: for solvers with random choices; mini-batch j gets ``seed + j``.
        options: for the solver, such as ``magnitude`` per subnet.

    Raises:
        InputError: a mini-batch has no schedule within the capacities, or the solver needs an
            option that is not given.
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("solve_minibatches needs the values of at least one mini-batch")
    begin = time.perf_counter()
    by_row = [_sum_rows(value, formulation) for value in values]
    known = {"block": formulation.row_block}
    options = {name: known[name] for name in required_options(solver) if name in known} | options
    if solver in _STACKED and not formulation.problem.shared:
        problems = [_stacked(formulation.problem, by_row)]
    else:
        problems = [replace(formulation.problem, value=value) for value in by_row]
    parts = []
    for index, problem in enumerate(problems):
        solution = solve(problem, solver, seed=following_seed(seed, index), **options)
        if solution.schedule is None:
            raise InputError(
                f"solver {solver!r} found no schedule for a mini-batch: {solution.status.value}; "
                f"give it a larger budget"
            )
        parts.append(solution.schedule)
    rows = np.concatenate(parts).reshape(len(values), *formulation.problem.value.shape[:2])
    return MinibatchSchedules(rows[:, formulation.row], time.perf_counter() - begin)


def _sum_rows(value: np.ndarray, formulation: Formulation) -> np.ndarray:
    total = np.zeros(formulation.problem.value.shape)
    np.add.at(total, formulation.row, value)
    return total


def _stacked(problem: Problem, values: Sequence[np.ndarray]) -> Problem:
    """Mini-batch after mini-batch as rows of one problem, each with knapsacks of its own."""
    num = len(values)
    offset = np.repeat(np.arange(num) * problem.num_knapsacks, problem.num_subnets)
    return Problem(
        value=np.concatenate(list(values)),
        cost=np.tile(problem.cost, (1, num, 1, 1)),
        knapsack=np.tile(problem.knapsack, (num, 1)) + offset[:, None],
        capacity=np.tile(problem.capacity, (num, 1)),
    )
