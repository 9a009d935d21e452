import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.solution import Status
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.baselines.random_choice import solve_random


def problem_of(seed, num_subnets, num_microbatches, num_knapsacks, equal):
    rng = np.random.default_rng(seed)
    shape = (num_subnets, num_microbatches)
    cost = np.zeros((2, *shape, 3))
    unit = np.ones(shape) if equal else rng.uniform(0.1, 2, shape)
    cost[..., Operation.FORWARD_ONLY] = unit
    cost[..., Operation.FULL] = 3 * unit
    return Problem(
        value=rng.random((*shape, 3)),
        cost=cost,
        knapsack=rng.integers(0, num_knapsacks, shape),
        capacity=rng.uniform(0, 9, (num_knapsacks, 2)),
    )


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_it_keeps_every_capacity_and_leaves_no_room(seed, num_subnets, num_microbatches, knapsacks):
    problem = problem_of(seed, num_subnets, num_microbatches, knapsacks, equal=False)
    solution = solve_random(problem, seed=seed)
    assert problem.violation(solution.schedule) is None
    left = problem.admitted - problem.spending(solution.schedule)
    skipped = solution.schedule == Operation.SHORTCUT
    room = left[problem.knapsack[skipped]]
    needed = problem.cost[:, skipped, Operation.FORWARD_ONLY].T
    assert not (needed <= room * (1 - 1e-9)).all(axis=1).any()


def test_equal_costs_get_the_most_full_operations_that_fit():
    problem = problem_of(1, 6, 5, 3, equal=True)
    schedule = solve_random(problem).schedule
    for knapsack, capacity in enumerate(problem.capacity.min(axis=1)):
        mine = schedule[problem.knapsack == knapsack]
        num_full = min(len(mine), int(capacity // 3))
        assert (mine == Operation.FULL).sum() == num_full


def test_the_seed_decides():
    problem = problem_of(1, 12, 5, 3, equal=True)
    first, again, other = (solve_random(problem, seed=s).schedule for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_bound_is_claimed():
    solution = solve_random(problem_of(0, 3, 3, 1, equal=True))
    assert solution.status == Status.FEASIBLE
    assert solution.upper_bound == pytest.approx(np.inf)
