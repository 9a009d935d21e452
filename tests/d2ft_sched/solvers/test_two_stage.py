"""The two-stage method against brute force of each stage."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Problem, solve
from d2ft_sched.errors import InputError
from d2ft_sched.schedule.operations import Operation


def problem_of(seed, num_items, equal):
    rng = np.random.default_rng(seed)
    shape = (1, num_items)
    value = np.zeros((*shape, 3))
    value[..., Operation.FORWARD_ONLY] = rng.integers(0, 9, shape)
    value[..., Operation.FULL] = value[..., Operation.FORWARD_ONLY] + rng.integers(0, 9, shape)
    unit = np.ones(shape) if equal else rng.integers(1, 4, shape)
    cost = np.zeros((1, *shape, 3))
    cost[0, ..., Operation.FORWARD_ONLY] = unit
    cost[0, ..., Operation.FULL] = 3 * unit
    capacity = np.array([[float(rng.integers(0, 3 * num_items + 1))]])
    return Problem(value=value, cost=cost, knapsack=np.zeros(1, dtype=int), capacity=capacity)


def best_subset(score, cost, capacity):
    return max(
        sum(s for s, taken in zip(score, subset, strict=True) if taken)
        for subset in product((0, 1), repeat=len(score))
        if sum(c for c, taken in zip(cost, subset, strict=True) if taken) <= capacity + 1e-9
    )


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_each_stage_is_exact(seed, num_items, equal, full_share):
    problem = problem_of(seed, num_items, equal)
    solution = solve(problem, solver="two_stage", full_share=full_share)
    value, cost = problem.value[0], problem.cost[0, 0]
    backward = value[:, Operation.FULL] - value[:, Operation.FORWARD_ONLY]
    forward = value[:, Operation.FORWARD_ONLY]
    capacity = problem.capacity[0, 0]
    full = solution.schedule[0] == Operation.FULL
    runs = solution.schedule[0] == Operation.FORWARD_ONLY
    assert backward[full].sum() == best_subset(
        backward, cost[:, Operation.FULL], full_share * capacity
    )
    left = capacity - cost[full, Operation.FULL].sum()
    assert forward[runs].sum() == best_subset(
        forward[~full], cost[~full, Operation.FORWARD_ONLY], left
    )
    joint = solve(problem, solver="dp")
    assert solution.objective <= joint.objective + 1e-9
    assert solution.upper_bound == pytest.approx(joint.objective)


def test_it_can_lose_against_the_joint_optimum():
    value = np.array([[[0.0, 5, 6], [0.0, 5, 6], [0.0, 5, 6]]])
    cost = np.zeros((1, 1, 3, 3))
    cost[..., 1:] = [1, 3]
    problem = Problem(value, cost, np.zeros(1, dtype=int), np.array([[3.0]]))
    solution = solve(problem, solver="two_stage")
    assert (solution.objective, solution.upper_bound) == (6, 15)
    assert solution.gap == pytest.approx(1.5)


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match="full_share is 2"):
        solve(problem_of(0, 2, equal=True), solver="two_stage", full_share=2)
