"""Problems with setups: every solver on small ones of every kind, against all schedules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Coverage, Problem, SharedLimit, Status
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.solvers.setups.solve import solve_given_groups, solve_setups

TENTHS = st.integers(0, 30).map(lambda n: n / 10)
FRACTIONS = st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 1.0, np.inf])
MAX_ITEMS = 4


@st.composite
def setup_problems(draw: st.DrawFn, numbers: st.SearchStrategy[float] = TENTHS) -> SetupProblem:
    """Ties, zero costs and capacities, groups, updates, odd and negative values, shared limits."""
    num_subnets = draw(st.integers(1, MAX_ITEMS))
    num_microbatches = draw(st.integers(1, MAX_ITEMS // num_subnets))
    num_resources, num_setups = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    num_knapsacks = draw(st.integers(1, 2))
    items = (num_subnets, num_microbatches)

    def table(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)

    def capacity(dense: np.ndarray) -> np.ndarray:
        size = dense.size
        share = np.array(draw(st.lists(FRACTIONS, min_size=size, max_size=size)))
        finite = np.where(np.isfinite(share), share, 0.0).reshape(dense.shape)
        return np.where(np.isfinite(share).reshape(dense.shape), dense * finite, np.inf)

    value, rest_value = table(*items, 3), table(*items)
    cost, rest_cost = table(num_resources, *items, 3), table(num_resources, *items)
    style = draw(st.sampled_from(["usual", "odd values", "odd costs", "negative", "offset"]))
    if style == "negative":
        value, rest_value = value - 2, rest_value - 2
    elif style == "offset":
        value, rest_value = value + 1000, rest_value + 1000
    elif style != "odd values":
        value[..., 0] = 0
        value = value.cumsum(axis=-1)
    if style != "odd costs":
        cost[..., 0] = 0
        cost = cost.cumsum(axis=-1)
        rest_cost = 0.5 * (cost[..., 1] + cost[..., 2])
    whole = st.integers(0, num_knapsacks - 1)
    knapsack = np.array(draw(st.lists(whole, min_size=MAX_ITEMS, max_size=MAX_ITEMS)))
    knapsack = knapsack[: num_subnets * num_microbatches].reshape(items)
    update = draw(st.sampled_from([0.0, 0.3])) * table(num_knapsacks, num_resources, num_subnets)
    dense = update.sum(axis=-1)
    for r in range(num_resources):
        np.add.at(dense[:, r], knapsack, cost[r].max(axis=-1))
    number = st.integers(0, num_subnets - 1)
    group = draw(st.none() | st.lists(number, min_size=num_subnets, max_size=num_subnets))
    shared: list[Coverage | SharedLimit] = []
    if draw(st.integers(0, 4)) == 0:
        shared.append(Coverage(np.zeros(num_subnets, int), 1))
    if num_resources and draw(st.integers(0, 4)) == 0:
        shared.append(SharedLimit(0, np.zeros(num_subnets, int), capacity(dense.sum(axis=0)[:1])))
    setup_cost = table(num_setups, num_subnets)
    return SetupProblem(
        Problem(value, cost, knapsack, capacity(dense), tuple(shared)),
        rest_value,
        rest_cost,
        setup_cost,
        capacity(setup_cost.sum(axis=1)),
        None if group is None else np.array(group),
        update,
    )


def best_by_enumeration(problem: SetupProblem) -> float:
    """Largest objective of any schedule that keeps every constraint; -inf if none does."""
    shape = (problem.problem.num_subnets, problem.problem.num_microbatches)
    best = float("-inf")
    for operations in itertools.product(range(4), repeat=problem.problem.num_items):
        schedule = np.array(operations, dtype=np.int8).reshape(shape)
        objective = problem.objective(schedule)
        if objective > best and problem.violation(schedule) is None:
            best = objective
    return best


@settings(max_examples=40, deadline=None)
@given(setup_problems())
def test_prices_find_what_enumeration_finds(problem: SetupProblem) -> None:
    best = best_by_enumeration(problem)
    solution = solve_setups(problem)
    if np.isneginf(best):
        assert solution.schedule is None
        assert problem.problem.shared or solution.status == Status.INFEASIBLE
        return
    assert solution.upper_bound >= best - 1e-9
    if solution.status == Status.OPTIMAL:
        assert solution.objective == pytest.approx(best, abs=1e-9)
    if problem.problem.shared:
        assert solution.objective == pytest.approx(best, rel=1e-6, abs=1e-6)
    else:
        assert solution.upper_bound - solution.objective <= 1e-9


@settings(max_examples=30, deadline=None)
@given(setup_problems(), st.sampled_from(["scip", "highs", "cp_sat"]))
def test_one_model_finds_what_enumeration_finds(problem: SetupProblem, backend: str) -> None:
    best = best_by_enumeration(problem)
    solution = solve_setups(problem, solver=backend, time_limit_s=20)
    if np.isneginf(best):
        assert solution.status == Status.INFEASIBLE
        return
    assert solution.objective == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert solution.upper_bound >= best - 1e-9


@settings(max_examples=30, deadline=None)
@given(setup_problems(), st.lists(st.booleans(), min_size=MAX_ITEMS, max_size=MAX_ITEMS))
def test_given_groups_are_no_better_than_chosen_ones(
    problem: SetupProblem, wanted: list[bool]
) -> None:
    trains = np.array(wanted[: problem.num_groups])
    if not problem.fits(trains):
        return
    solution = solve_given_groups(problem, trains)
    if solution.schedule is None:
        return
    assert not (problem.trains(solution.schedule) & ~trains).any()
    assert solution.objective <= solve_setups(problem).upper_bound + 1e-9
