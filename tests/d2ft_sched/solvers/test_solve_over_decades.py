"""Every solver on random problems over 12 decades: nothing that brute force contradicts."""

import itertools
from math import fsum

import numpy as np
import pytest

from d2ft_sched import Coverage, Problem, SharedLimit, Status, solve
from d2ft_sched.errors import InputError
from d2ft_sched.files.seeds import MAX_SEED
from d2ft_sched.problem.problem import CAPACITY_TOLERANCE

SOLVERS = ("dp", "lagrangian", "two_stage", "dp", "greedy", "uniform", "random")
"""Each on its part of the problems."""
BACKENDS = ("scip", "highs", "cp_sat")


def random_problem(seed: int, max_items: int = 5) -> Problem:
    """Ties, values and costs over 12 decades, operations that cannot fit, offsets that cancel."""
    rng = np.random.default_rng(seed)
    num_subnets = int(rng.integers(1, max_items + 1))
    shape = (num_subnets, int(rng.integers(1, max_items // num_subnets + 1)))
    num_resources, num_knapsacks = int(rng.integers(0, 3)), int(rng.integers(1, 4))
    half_decades = int(rng.choice([0, 3, 6]))

    def table(*size: int) -> np.ndarray:
        whole = rng.random() < 0.5
        drawn = rng.integers(0, 10, size).astype(float) if whole else 10 * rng.random(size)
        return drawn * 10.0 ** rng.integers(-half_decades, half_decades + 1, size)

    value = table(*shape, 3)
    cost = table(num_resources, *((1, 1) if rng.random() < 0.4 else shape), 3)
    cost = np.broadcast_to(cost, (num_resources, *shape, 3)).copy()
    for array in (value, cost):
        if rng.random() < 0.7:
            array[..., 0] = 0
            array[...] = array.cumsum(axis=-1)
    if rng.random() < 0.3:
        value *= rng.choice([-1, 1], value.shape)
    if rng.random() < 0.3:
        offset = rng.integers(-9, 10, shape) * 10.0 ** rng.integers(0, 7)
        offset.flat[-1] -= offset.sum()
        value += offset[..., None]
    if rng.random() < 0.5:
        dear = rng.random(cost.shape) < 0.15
        cost[dear] *= 10.0 ** rng.integers(1, 13)
        value[dear.any(axis=0)] *= 10.0 ** rng.integers(0, 13)
    knapsack = rng.integers(0, num_knapsacks, shape)
    middle = np.median(cost, axis=-1)

    def of_groups(group: np.ndarray, resource: int, number: int) -> np.ndarray:
        total = [middle[resource][group == g].sum() for g in range(number)]
        return np.array(total) * rng.uniform(0.2, 1.5, number)

    capacity = np.full((num_knapsacks, num_resources), np.inf)
    shared: list[SharedLimit | Coverage] = []
    for r in range(num_resources):
        if rng.random() < 0.7:
            capacity[:, r] = of_groups(knapsack, r, num_knapsacks)
        if rng.random() < 0.5:
            group = rng.integers(-1, 2, shape)
            shared.append(SharedLimit(r, group, of_groups(group, r, 2)))
    if rng.random() < 0.2:
        shared.append(Coverage(rng.integers(-1, 2, num_subnets), 1))
    return Problem(value, cost, knapsack, capacity, tuple(shared))


def best_objective(problem: Problem, tolerance: float) -> float | None:
    """The largest objective over all schedules; None if none is feasible."""
    n, shape = problem.num_items, (problem.num_subnets, problem.num_microbatches)
    choices = np.array(list(itertools.product(range(3), repeat=n)))
    item = np.arange(n)
    feasible = np.ones(len(choices), dtype=bool)
    limits = [(r, problem.knapsack, problem.capacity[:, r]) for r in range(problem.num_resources)]
    for constraint in problem.shared:
        if isinstance(constraint, SharedLimit):
            limits.append((constraint.resource, constraint.group, constraint.capacity))
            continue
        active = (choices != 0).reshape(-1, *shape)
        for g in set(constraint.group.tolist()) - {-1}:
            count = active[:, constraint.group == g].sum(axis=1)
            feasible &= (count >= constraint.minimum).all(axis=1)
    for r, group, capacity in limits:
        cost = problem.cost[r].reshape(n, 3)[item, choices]
        for g, most in enumerate(capacity):
            feasible &= cost[:, group.ravel() == g].sum(axis=1) <= most * (1 + tolerance)
    if not feasible.any():
        return None
    value = problem.value.reshape(n, 3)[item, choices[feasible]]
    leading = np.argsort(-value.sum(axis=1))[:20]
    return max(fsum(value[j]) for j in leading)


def assert_nothing_untrue(problem: Problem, solver: str) -> None:
    """No status, bound or schedule that all schedules contradict, within 1e-6 of the optimum."""
    solution = solve(problem, solver)
    least = best_objective(problem, 0.0)
    if solution.schedule is not None:
        assert problem.violation(solution.schedule) is None
        most = best_objective(problem, CAPACITY_TOLERANCE)
        assert most is not None
        assert solution.objective <= most + 1e-6 * abs(most)
    if least is None:
        return
    assert solution.status != Status.INFEASIBLE
    assert solution.upper_bound >= least - 1e-6 * abs(least)
    if solution.status == Status.OPTIMAL:
        assert solution.objective >= least - 1e-6 * abs(least)


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_no_status_is_above_what_brute_force_says(first: int) -> None:
    for seed in range(first, first + 100):
        problem = random_problem(seed)
        has_coverage = any(isinstance(c, Coverage) for c in problem.shared)
        solver = SOLVERS[seed % len(SOLVERS)]
        assert_nothing_untrue(problem, "dp" if has_coverage else solver)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_backend_claims_more_than_brute_force(backend: str) -> None:
    for seed in range(80):
        assert_nothing_untrue(random_problem(seed), backend)


def two_limits(value: float, cost: float) -> Problem:
    """FORWARD_ONLY of subnets 0 and 1 is the optimum, 10; FULL of subnet 0 cannot fit."""
    values = np.array([[0, 5, value], [0, 5, 9], [0, 3, 9.0]])[:, None]
    compute = [[0, 4, cost], [0, 3, 4], [0, 5, 5]]
    costs = np.array([compute, [[0, 2, 3], [0, 2, 4], [0, 2, 3]]], dtype=float)[:, :, None]
    shared = (SharedLimit(1, np.zeros(3, dtype=int), np.array([4.0])),)
    return Problem(values, costs, np.zeros(3, dtype=int), np.array([[20, np.inf]]), shared)


@pytest.mark.parametrize("solver", ["dp", *BACKENDS])
@pytest.mark.parametrize("value", [1e8, 1e12, 1e20, 1e29])
@pytest.mark.parametrize("cost", [50.0, 1e20])
def test_what_cannot_fit_sets_no_scale(solver: str, value: float, cost: float) -> None:
    solution = solve(two_limits(value, cost), solver)
    assert solution.status == Status.OPTIMAL
    assert solution.objective == 10
    assert solution.upper_bound == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("solver", ["dp", *BACKENDS])
@pytest.mark.parametrize("seed", [0, 2**31, 2**32 - 1, MAX_SEED])
def test_every_solver_takes_every_seed(solver: str, seed: int) -> None:
    assert solve(two_limits(9, 50), solver, seed=seed).objective == 10


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64, 1.5, True])
def test_other_seeds_are_refused_in_one_line(seed: int) -> None:
    with pytest.raises(InputError, match=r"seed is .*; it must be a whole number from 0 to"):
        solve(two_limits(9, 50), seed=seed)
