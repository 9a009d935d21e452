"""The exact algorithms at sizes beyond brute force: against a plain DP, SCIP and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Problem, Status, solve
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.single.linear_relaxation import resource_prices

SEEDS = st.integers(0, 2**32 - 1)


def dp_over_counts(value: np.ndarray, cost: np.ndarray, capacity: np.ndarray) -> float:
    """Best value of one knapsack of equal costs: the reference, item by item over the counts.

    Args:
        value: float ``[num_items, 3]``.
        cost: float ``[num_resources, 3]``.
        capacity: float ``[num_resources]``.
    """
    n = len(value)
    best = np.full((n + 2, n + 2), -np.inf)
    best[0, 0] = 0.0
    for shortcut, forward, full in value:
        padded = np.pad(best, ((1, 0), (1, 0)), constant_values=-np.inf)
        best = np.maximum(best + shortcut, padded[:-1, 1:] + full)
        best = np.maximum(best, padded[1:, :-1] + forward)
    return max(
        best[a, b]
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if (cost @ [n - a - b, b, a] <= capacity * (1 + 1e-9)).all()
    )


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_equal_costs_match_the_plain_dp(seed: int) -> None:
    """Knapsacks of many sizes in one problem, one to three resources, ties and negative values."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, rng.integers(1, 6))
    num_resources = int(rng.integers(1, 4))
    knapsack = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    value = rng.normal(0.5, 1, (len(knapsack), NUM_OPERATIONS))
    if rng.random() < 0.5:
        value = np.round(value)
    cost = rng.integers(0, 4, (num_resources, len(sizes), NUM_OPERATIONS)).astype(float)
    cost[..., 0] = 0
    dense = cost.max(axis=2).T * sizes[:, None]
    capacity = dense * rng.uniform(0, 1, dense.shape)
    problem = Problem(value[:, None], cost[:, knapsack][:, :, None], knapsack, capacity)
    solution = solve(problem)
    assert solution.status == Status.OPTIMAL
    expected = sum(
        dp_over_counts(value[knapsack == k], cost[:, k], capacity[k]) for k in range(len(sizes))
    )
    assert solution.objective == pytest.approx(expected, abs=1e-9 * np.abs(value).sum())


def unequal_problem(seed: int, kind: str, num_resources: int, num_items: int = 40) -> Problem:
    """Three knapsacks of `num_items` items."""
    rng = np.random.default_rng(seed)
    shape = (3, num_items)
    relative = np.array([[0, 1, 3], [0, 1, 2], [0, 0, 1.0]])[:num_resources, None, None]
    score = rng.gamma(2, 1, (2, *shape))
    if kind == "random":
        size = rng.uniform(0.1, 1, (num_resources, *shape, 1))
    else:
        width, samples = rng.choice([1.0, 2, 3], (3, num_items)), rng.choice([1.0, 2, 4], num_items)
        size = np.stack([width * samples, samples + 0 * width, width * samples])[:num_resources]
        size = size[..., None]
        score = score * samples if kind == "classes" else np.ones_like(score)
    cost = size * relative
    value = np.stack([np.zeros(shape), score[0], score.sum(axis=0)], axis=-1)
    dense = cost[..., 2].sum(axis=2).T
    capacity = dense * rng.uniform(0.3, 0.8, dense.shape)
    return Problem(value, cost, np.arange(3), capacity)


@pytest.mark.parametrize("kind", ["random", "classes", "uniform scores"])
@pytest.mark.parametrize("num_resources", [1, 2, 3])
def test_unequal_costs_match_scip(kind: str, num_resources: int) -> None:
    for seed in range(2):
        problem = unequal_problem(seed, kind, num_resources)
        ours, theirs = solve(problem), solve(problem, solver="scip", time_limit_s=30)
        assert ours.status == Status.OPTIMAL
        assert ours.objective >= theirs.objective * (1 - 1e-9)
        assert ours.objective <= theirs.upper_bound * (1 + 1e-6)


def test_an_operation_forbidden_by_its_value_does_not_blur_the_proof() -> None:
    problem = unequal_problem(0, "random", 1)
    forbidden = []
    for penalty in (1e2, 1e11):
        value = problem.value.copy()
        value[:, 3, 2] = -penalty
        forbidden.append(solve(Problem(value, problem.cost, np.arange(3), problem.capacity)))
    assert forbidden[1].status == Status.OPTIMAL
    assert forbidden[1].objective == pytest.approx(forbidden[0].objective, rel=1e-9)


def test_a_search_that_is_cut_off_says_so_and_keeps_a_true_bound() -> None:
    problem = unequal_problem(1, "classes", 3)
    exact, cut = solve(problem), solve(problem, max_states=2)
    assert exact.status == Status.OPTIMAL
    assert cut.status == Status.FEASIBLE
    assert "cut off" in cut.method
    assert cut.objective <= exact.objective <= cut.upper_bound
    assert 0 < cut.gap < 0.05


def test_a_time_limit_ends_the_search_with_a_true_bound() -> None:
    problem = unequal_problem(1, "classes", 3, num_items=400)
    hurried, exact = solve(problem, time_limit_s=1e-3), solve(problem)
    assert hurried.status in (Status.TIME_LIMIT, Status.OPTIMAL)
    assert hurried.upper_bound >= exact.objective * (1 - 1e-9)


def test_the_order_of_items_and_knapsacks_does_not_matter() -> None:
    problem = unequal_problem(0, "classes", 2)
    shuffled = np.random.default_rng(0).permutation(problem.num_items)
    flat = Problem(
        problem.value.reshape(-1, 1, 3)[shuffled],
        problem.cost.reshape(2, -1, 1, 3)[:, shuffled],
        problem.knapsack.ravel()[shuffled],
        problem.capacity,
    )
    assert solve(flat).objective == pytest.approx(solve(problem).objective, rel=1e-12)


def test_results_do_not_depend_on_the_size_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    value = np.sort(rng.random((50, 7, 3)), axis=-1)
    cost = np.broadcast_to([0, 1, 3.0], (1, 50, 7, 3))
    problem = Problem(value, cost, np.arange(50), np.full((50, 1), 9.0))
    whole = solve(problem)
    monkeypatch.setattr("d2ft_sched.solvers.dp.RUN_ITEMS", 10)
    np.testing.assert_array_equal(solve(problem).schedule, whole.schedule)


@pytest.mark.parametrize("num_resources", [1, 2, 3])
def test_prices_of_the_relaxation_are_those_of_the_linear_programme(num_resources: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(num_resources)
    num_items = 20
    value = np.sort(rng.random((3, 1, num_items)), axis=0)
    cost = rng.random((num_resources, 3, 1, num_items)).cumsum(axis=1) / num_items
    cost[:, 0] = 0
    price = resource_prices(value, cost, np.ones(value.shape, dtype=bool))[:, 0]
    reduced = value[:, 0] - np.einsum("r,roi->oi", price, cost[:, :, 0])
    one_each = np.tile(np.eye(num_items), 3)
    optimum = linprog(
        -value.ravel(),
        A_ub=cost.reshape(num_resources, -1),
        b_ub=np.ones(num_resources),
        A_eq=one_each,
        b_eq=np.ones(num_items),
    )
    assert price.sum() + reduced.max(axis=0).sum() == pytest.approx(-optimum.fun, rel=1e-7)
