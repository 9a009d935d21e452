"""The OR-Tools backends: warm start, knapsack by knapsack, limits, and what they print."""

import subprocess
import sys

import numpy as np
import pytest

from d2ft_sched import Problem, Status, solve
from d2ft_sched.errors import InputError
from d2ft_sched.problem.shared import Coverage
from d2ft_sched.solvers.mip_arrays import mip_arrays


def random_problem(num_knapsacks: int = 5, num_items: int = 12, **shared: tuple) -> Problem:
    rng = np.random.default_rng(num_knapsacks)
    shape = (num_knapsacks, num_items)
    value = np.sort(rng.random((*shape, 3)), axis=-1)
    cost = np.sort(rng.random((2, *shape, 3)), axis=-1)
    value[..., 0] = cost[..., 0] = 0
    capacity = 0.4 * cost[..., 2].sum(axis=2).T
    return Problem(value, cost, np.arange(num_knapsacks), capacity, **shared)


@pytest.mark.parametrize("backend", ["scip", "highs", "cp_sat"])
@pytest.mark.parametrize("how", ["whole", "with a start", "by knapsack"])
def test_every_way_to_call_them_finds_the_optimum(backend: str, how: str) -> None:
    problem = random_problem()
    best = solve(problem)
    option = {"with a start": {"start": best.schedule}, "by knapsack": {"by_knapsack": True}}
    solution = solve(problem, solver=backend, time_limit_s=30, **option.get(how, {}))
    assert solution.objective == pytest.approx(best.objective, rel=1e-6)
    assert ("warm start" in solution.method) == (how == "with a start")
    assert solution.build_s > 0
    assert solution.solve_s > 0
    assert backend in solution.method


def test_a_time_limit_is_reported_as_one() -> None:
    problem = random_problem(num_knapsacks=60, num_items=40)
    solution = solve(problem, solver="cp_sat", time_limit_s=0.5)
    assert solution.status == Status.TIME_LIMIT
    assert solution.upper_bound >= solve(problem).objective * (1 - 1e-9)


@pytest.mark.parametrize("solver", ["scip", "highs", "cp_sat", "dp"])
def test_a_limit_of_nodes_ends_the_search_alike_however_long_it_takes(solver: str) -> None:
    shared = (Coverage(np.arange(12) % 3, 2),)
    problem = random_problem(num_knapsacks=12, num_items=6, shared=shared)
    first = solve(problem, solver=solver, max_nodes=20)
    again = solve(problem, solver=solver, max_nodes=20)
    assert first.schedule is not None
    assert (first.schedule == again.schedule).all()
    assert (first.status, first.upper_bound) == (again.status, again.upper_bound)


def test_infeasible_is_reported_by_every_backend_and_way() -> None:
    rng = np.random.default_rng(0)
    cost = 1 + rng.random((1, 2, 3, 3))
    problem = Problem(rng.random((2, 3, 3)), cost, np.arange(2), np.array([[9.0], [1.0]]))
    for backend in ("scip", "highs", "cp_sat", "dp"):
        solution = solve(problem, solver=backend)
        assert solution.status == Status.INFEASIBLE
        assert solution.schedule is None
    assert solve(problem, solver="mip", by_knapsack=True).status == Status.INFEASIBLE


def test_coupled_problems_do_not_separate() -> None:
    problem = random_problem(shared=(Coverage(np.zeros(5, int), 1),))
    with pytest.raises(InputError, match="by_knapsack must be False"):
        solve(problem, solver="mip", by_knapsack=True)


def test_equal_costs_become_integer_knapsacks() -> None:
    """A capacity of 0.6 of five items admits three, whatever the rounding."""
    cost = np.broadcast_to(np.array([0, 0.1, 0.3]), (1, 1, 5, 3))
    problem = Problem(np.ones((1, 5, 3)), cost, np.zeros(1, int), np.array([[0.6 * 5 * 0.3]]))
    arrays = mip_arrays(problem)
    assert set(arrays.coefficient[arrays.row == 5]) == {1.0, 3.0}
    assert arrays.upper[5] == 9.0


def test_native_code_prints_nothing() -> None:
    code = """
import numpy as np
from d2ft_sched import Problem, solve
rng = np.random.default_rng(0)
cost = rng.random((2, 5, 64, 3)).cumsum(axis=-1)
cost[..., 0] = 0
value = rng.random((5, 64, 3)).cumsum(axis=-1)
capacity = 0.4 * cost[..., 2].sum(axis=2).T
solve(Problem(value, cost, np.arange(5), capacity), solver="highs", time_limit_s=3)
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "done\n"
