"""Every solver on small random problems of every kind, against all schedules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Operation, Problem, Status, solve
from d2ft_sched.problem.problem import CAPACITY_TOLERANCE
from d2ft_sched.schedule.operations import NUM_OPERATIONS

NUMBERS = st.one_of(
    st.integers(0, 4).map(float),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3, 1e-9, 1e6]),
    st.floats(0, 10, allow_nan=False, width=32),
)

TENTHS = st.integers(0, 100).map(lambda n: n / 10)
"""Of one magnitude, as the tolerances of branch-and-bound solvers ask."""


@st.composite
def problems(
    draw: st.DrawFn,
    max_items: int = 7,
    equal_costs: bool = False,
    numbers: st.SearchStrategy[float] = NUMBERS,
) -> Problem:
    """Problems with ties, zero costs and capacities, free resources, odd values and costs."""
    num_subnets = draw(st.integers(1, max_items))
    num_microbatches = draw(st.integers(1, max_items // num_subnets))
    num_resources = draw(st.integers(0, 3))
    num_knapsacks = draw(st.integers(1, 3))
    shape = (num_subnets, num_microbatches)

    def table(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)

    value = table(*shape, NUM_OPERATIONS)
    style = draw(st.sampled_from(["usual", "odd values", "odd costs", "negative"]))
    cost = table(num_resources, *((1, 1) if equal_costs else shape), NUM_OPERATIONS)
    cost = np.broadcast_to(cost, (num_resources, *shape, NUM_OPERATIONS)).copy()
    if style == "negative":
        value = value - 3
    elif style != "odd values":
        value[..., 0] = 0
        value = value.cumsum(axis=-1)
    if style != "odd costs":
        cost[..., 0] = 0
        cost = cost.cumsum(axis=-1)
    if draw(st.booleans()):
        knapsack = np.array(
            draw(
                st.lists(
                    st.integers(0, num_knapsacks - 1), min_size=num_subnets, max_size=num_subnets
                )
            )
        )
    else:
        knapsack = np.array(
            draw(
                st.lists(
                    st.integers(0, num_knapsacks - 1),
                    min_size=num_subnets * num_microbatches,
                    max_size=num_subnets * num_microbatches,
                )
            )
        ).reshape(shape)
    dense = np.zeros((num_knapsacks, num_resources))
    full = np.broadcast_to(knapsack.reshape(num_subnets, -1), shape)
    for r in range(num_resources):
        np.add.at(dense[:, r], full, cost[r].max(axis=-1))
    fraction = np.array(
        draw(
            st.lists(
                st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.75, 1.0, np.inf]),
                min_size=dense.size,
                max_size=dense.size,
            )
        )
    ).reshape(dense.shape)
    capacity = np.where(
        np.isinf(fraction), np.inf, dense * np.where(np.isinf(fraction), 1, fraction)
    )
    return Problem(value=value, cost=cost, knapsack=knapsack, capacity=capacity)


def best_objective(problem: Problem, tolerance: float) -> float | None:
    """The largest objective over all schedules; None if none is feasible."""
    n = problem.num_items
    all_operations = np.array(list(itertools.product(range(NUM_OPERATIONS), repeat=n)))
    column = np.arange(n)
    value = problem.value.reshape(n, NUM_OPERATIONS)[column, all_operations].sum(axis=1)
    feasible = np.ones(len(value), dtype=bool)
    knapsack = problem.knapsack.ravel()
    for r in range(problem.num_resources):
        cost = problem.cost[r].reshape(n, NUM_OPERATIONS)[column, all_operations]
        for k in range(problem.num_knapsacks):
            spent = cost[:, knapsack == k].sum(axis=1)
            feasible &= spent <= problem.capacity[k, r] * (1 + tolerance)
    return float(value[feasible].max()) if feasible.any() else None


def assert_optimal(problem: Problem, solver: str, tolerance: float = 1e-9) -> None:
    """Between the optimum of the capacities as given and that of what the tolerance admits."""
    solution = solve(problem, solver=solver)
    least = best_objective(problem, 0.0)
    most = best_objective(problem, CAPACITY_TOLERANCE)
    if solution.schedule is None:
        assert solution.status == Status.INFEASIBLE
        assert least is None
        return
    scale = np.abs(problem.value).max(axis=2).sum()
    if solution.status != Status.OPTIMAL:
        # Values that cancel leave an objective in which their rounding is no small part.
        assert solution.status == Status.FEASIBLE
        assert abs(solution.objective) <= 1e-4 * scale
        assert solution.upper_bound - solution.objective <= 1e-12 * scale
    assert problem.violation(solution.schedule) is None
    slack = tolerance * scale + 1e-12
    assert most is not None
    assert solution.objective <= most + slack
    if least is not None:
        assert solution.objective >= least - slack
    assert solution.upper_bound >= solution.objective


@given(problems(equal_costs=True))
@settings(max_examples=400, deadline=None)
def test_dp_is_optimal_for_equal_costs(problem: Problem) -> None:
    assert_optimal(problem, "dp")


@given(problems())
@settings(max_examples=400, deadline=None)
def test_dp_is_optimal_for_unequal_costs(problem: Problem) -> None:
    assert_optimal(problem, "dp")


@pytest.mark.parametrize("backend", ["scip", "highs", "cp_sat"])
@given(problem=problems(max_items=6, numbers=TENTHS))
@settings(max_examples=80, deadline=None)
def test_mip_backends_agree_with_brute_force(backend: str, problem: Problem) -> None:
    assert_optimal(problem, backend, tolerance=1e-6)


@pytest.mark.parametrize("backend", ["scip", "highs", "cp_sat"])
def test_a_bound_that_rounding_puts_below_the_optimum_still_proves_it(backend: str) -> None:
    cost = np.zeros((3, 1, 2, 3))
    cost[1, 0] = [[0.0, 0.1, 0.0], [0.2, 0.0, 0.1]]
    cost[2, 0, 0, Operation.FULL] = 0.1
    value = np.array([[[0.0, 4.9, 4.9], [0.0, 0.0, 0.1]]])
    capacity = np.array([[0.0, 0.12, 0.0]])
    problem = Problem(value=value, cost=cost, knapsack=np.array([[0, 0]]), capacity=capacity)
    solution = solve(problem, solver=backend)
    assert (solution.status, solution.objective) == (Status.OPTIMAL, 4.9)
