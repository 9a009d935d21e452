"""Coupled problems against all schedules, and certified at sizes that brute force cannot reach."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Coverage, Problem, SharedLimit, Status, solve
from d2ft_sched.problem.problem import CAPACITY_TOLERANCE
from d2ft_sched.problem.solution import Solution
from d2ft_sched.schedule.operations import NUM_OPERATIONS

SEEDS = st.integers(0, 2**32 - 1)


def random_problem(seed: int, max_items: int = 7) -> Problem:
    """Shared limits and coverage over random groups; usual and odd costs, some of them equal."""
    rng = np.random.default_rng(seed)
    num_subnets = int(rng.integers(1, max_items + 1))
    shape = (num_subnets, int(rng.integers(1, max_items // num_subnets + 1)))
    num_resources, num_knapsacks = int(rng.integers(0, 4)), int(rng.integers(1, 4))

    def table(*size: int) -> np.ndarray:
        return rng.random(size) * 5 if real else rng.integers(0, 5, size).astype(float)

    real = rng.random() < 0.5
    value = table(*shape, NUM_OPERATIONS)
    same = rng.random() < 0.4
    cost = table(num_resources, *((1, 1) if same else shape), NUM_OPERATIONS)
    cost = np.broadcast_to(cost, (num_resources, *shape, NUM_OPERATIONS)).copy()
    for array in (value, cost):
        if rng.random() < 0.8:
            array[..., 0] = 0
            array[...] = array.cumsum(axis=-1)
    knapsack = rng.integers(0, num_knapsacks, shape if rng.random() < 0.4 else shape[:1])
    per_item = np.broadcast_to(knapsack.reshape(num_subnets, -1), shape)
    dense = np.zeros((num_knapsacks, num_resources))
    for r in range(num_resources):
        np.add.at(dense[:, r], per_item, cost[r].max(axis=-1))
    capacity = dense * rng.uniform(0.2, 1, dense.shape)
    capacity[rng.random(dense.shape) < 0.3] = np.inf
    shared: list[SharedLimit | Coverage] = []
    for r in range(num_resources):
        if rng.random() < 0.6:
            num_groups = int(rng.integers(1, 3))
            group = rng.integers(-1, num_groups, shape if rng.random() < 0.5 else shape[:1])
            item_group = np.broadcast_to(group.reshape(num_subnets, -1), shape)
            total = [cost[r].max(axis=-1)[item_group == g].sum() for g in range(num_groups)]
            shared.append(
                SharedLimit(r, group, np.array(total) * rng.uniform(0.2, 0.9, num_groups))
            )
    if not shared or rng.random() < 0.5:
        shared.append(Coverage(rng.integers(-1, 2, num_subnets), int(rng.integers(1, 3))))
    return Problem(value, cost, knapsack, capacity, tuple(shared))


def best_objective(problem: Problem, tolerance: float) -> float | None:
    """The largest objective over all schedules; None if none is feasible."""
    n, shape = problem.num_items, (problem.num_subnets, problem.num_microbatches)
    choices = np.array(list(itertools.product(range(NUM_OPERATIONS), repeat=n)))
    item = np.arange(n)
    value = problem.value.reshape(n, NUM_OPERATIONS)[item, choices].sum(axis=1)
    feasible = np.ones(len(value), dtype=bool)

    def limit(r: int, group: np.ndarray, capacity: np.ndarray) -> None:
        cost = problem.cost[r].reshape(n, NUM_OPERATIONS)[item, choices]
        for g, most in enumerate(capacity):
            spent = cost[:, group.ravel() == g].sum(axis=1)
            feasible[spent > most * (1 + tolerance)] = False

    for r in range(problem.num_resources):
        limit(r, problem.knapsack, problem.capacity[:, r])
    for constraint in problem.shared:
        if isinstance(constraint, SharedLimit):
            limit(constraint.resource, constraint.group, constraint.capacity)
        else:
            active = (choices != 0).reshape(-1, *shape)
            for g in set(constraint.group.tolist()) - {-1}:
                count = active[:, constraint.group == g].sum(axis=1)
                feasible[(count < constraint.minimum).any(axis=1)] = False
    return float(value[feasible].max()) if feasible.any() else None


def assert_true_claims(problem: Problem, solver: str, tolerance: float) -> Solution:
    """Feasible, not above the optimum, not with a bound below it, and optimal if it says so."""
    solution = solve(problem, solver=solver)
    least = best_objective(problem, 0.0)
    most = best_objective(problem, CAPACITY_TOLERANCE)
    slack = tolerance * np.abs(problem.value).max(axis=2).sum() + 1e-12
    if least is not None:
        assert solution.status != Status.INFEASIBLE
        assert solution.upper_bound >= least - slack
    if solution.schedule is None:
        return solution
    assert problem.violation(solution.schedule) is None
    assert most is not None
    assert solution.objective <= most + slack
    assert solution.upper_bound >= solution.objective
    if solution.status == Status.OPTIMAL and least is not None:
        assert solution.objective >= least - slack
    return solution


@given(SEEDS)
@settings(max_examples=300, deadline=None)
def test_the_decomposition_claims_nothing_untrue(seed: int) -> None:
    assert_true_claims(random_problem(seed), "lagrangian", 1e-9)


@given(SEEDS)
@settings(max_examples=150, deadline=None)
def test_small_coupled_problems_are_solved_to_optimality(seed: int) -> None:
    status = assert_true_claims(random_problem(seed), "dp", 1e-6).status
    assert status in (Status.OPTIMAL, Status.INFEASIBLE)


@pytest.mark.parametrize("backend", ["scip", "highs", "cp_sat"])
@given(seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_mip_backends_solve_coupled_problems(backend: str, seed: int) -> None:
    solution = assert_true_claims(random_problem(seed), backend, 1e-6)
    if solution.status == Status.FEASIBLE:  # the integers of cp_sat stand for rounded numbers
        assert backend == "cp_sat"
        assert solution.upper_bound == pytest.approx(solution.objective, rel=1e-5)
    else:
        assert solution.status in (Status.OPTIMAL, Status.INFEASIBLE)


def cluster_problem(num_devices: int, own_units: bool, seed: int = 0) -> Problem:
    """Three resources, a link per eight devices and a budget of compute over all of them."""
    rng = np.random.default_rng(seed)
    shape = (num_devices, 16)
    score = rng.random((2, *shape))
    value = np.stack([np.zeros(shape), score[0], score.sum(axis=0)], axis=-1)
    unit = rng.uniform(0.5, 2, (3, num_devices, 1, 1)) if own_units else np.ones((3, 1, 1, 1))
    relative = np.array([[0, 1, 3], [0, 1, 2], [0, 0, 1.0]])
    cost = np.broadcast_to(unit * relative[:, None, None], (3, *shape, 3)).copy()
    dense = cost[..., 2].sum(axis=2).T
    device = np.arange(num_devices)
    link = device // 8
    shared = (
        SharedLimit(1, link, 0.4 * np.bincount(link, dense[:, 1]), "link"),
        SharedLimit(0, np.zeros(num_devices, int), np.array([0.35 * dense[:, 0].sum()]), "budget"),
    )
    return Problem(value, cost, device, dense * rng.uniform(0.4, 0.9, dense.shape), shared)


@pytest.mark.parametrize("own_units", [True, False])
def test_links_and_a_budget_are_met_with_a_gap_below_a_thousandth(own_units: bool) -> None:
    problem = cluster_problem(400, own_units)
    solution = solve(problem, solver="lagrangian")
    assert solution.schedule is not None
    assert solution.gap <= 1e-3
    free = solve(Problem(problem.value, problem.cost, problem.knapsack, problem.capacity))
    assert solution.objective < free.objective
    assert problem.violation(free.schedule) is not None


def test_the_bound_holds_for_scip_and_its_schedule_for_ours() -> None:
    problem = cluster_problem(16, own_units=True)
    ours = solve(problem, solver="lagrangian")
    theirs = solve(problem, solver="scip", time_limit_s=3)
    assert ours.upper_bound >= theirs.objective * (1 - 1e-6)
    assert theirs.upper_bound >= ours.objective * (1 - 1e-6)


def test_coverage_is_met_and_proven_where_the_free_optimum_breaks_it() -> None:
    rng = np.random.default_rng(0)
    num_blocks, num_heads, num_microbatches = 12, 6, 16
    shape = (num_blocks * num_heads, num_microbatches)
    score = rng.gamma(1, 1, (2, *shape))
    value = np.stack([np.zeros(shape), score[0], score.sum(axis=0)], axis=-1)
    cost = np.broadcast_to([0, 1, 3.0], (1, *shape, 3))
    device = np.tile(np.arange(num_heads), num_blocks)
    block = np.repeat(np.arange(num_blocks), num_heads)
    capacity = np.full((num_heads, 1), 0.2 * 3 * num_blocks * num_microbatches)
    free = Problem(value, cost, device, capacity)
    covered = Problem(value, cost, device, capacity, (Coverage(block, 2),))
    schedule = solve(free).schedule
    assert schedule is not None
    assert covered.violation(schedule) is not None
    solution = solve(covered, solver="lagrangian")
    assert solution.schedule is not None
    assert solution.gap <= 1e-3


def test_a_coverage_that_no_schedule_can_meet_is_infeasible() -> None:
    value, cost = np.zeros((2, 3, 3)), np.broadcast_to([0, 1, 2.0], (1, 2, 3, 3))
    cover = (Coverage(np.zeros(2, int), 1),)
    problem = Problem(value, cost, np.zeros(2, int), np.array([[2.0]]), cover)
    assert solve(problem).status == Status.INFEASIBLE
    assert solve(problem, solver="lagrangian").status in (Status.INFEASIBLE, Status.TIME_LIMIT)
    too_many = Problem(
        value, cost, np.zeros(2, int), np.array([[99.0]]), (Coverage(np.zeros(2, int), 3),)
    )
    assert solve(too_many, solver="lagrangian").status == Status.INFEASIBLE


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_the_unit_of_values_does_not_matter(unit: float) -> None:
    rng = np.random.default_rng(0)
    shape = (6, 5)
    value = np.sort(rng.random((*shape, 3)), axis=2)
    value[..., 0] = 0
    cost = np.array([0, 1, 3.0]) * rng.uniform(0.5, 1.5, (1, *shape, 1))
    device = np.arange(6) // 3
    group = np.full(shape, -1)
    group[:, 0] = 0
    shared = (SharedLimit(0, group, np.array([2.0])), Coverage(device, 1))
    capacity = 0.4 * cost[0].max(axis=2).reshape(2, -1).sum(axis=1)[:, None]
    usual, scaled = (
        solve(Problem(u * value, cost, device, capacity, shared), "lagrangian") for u in (1.0, unit)
    )
    assert usual.status == Status.FEASIBLE
    assert scaled.objective / unit == pytest.approx(usual.objective, rel=1e-6)
    assert scaled.upper_bound / unit == pytest.approx(usual.upper_bound, rel=1e-6)
