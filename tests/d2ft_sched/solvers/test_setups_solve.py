"""Problems with setups: closed forms, sizes that one model can prove, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched import Operation, Problem, SharedLimit, Solution, Status
from d2ft_sched.errors import InputError
from d2ft_sched.problem.resting import in_turns
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.solvers.setups.setup_dual import SetupDual
from d2ft_sched.solvers.setups.setup_rows import setup_rows
from d2ft_sched.solvers.setups.solve import SOLVERS, solve_given_groups, solve_setups


def replicas(
    seed: int = 0,
    num_subnets: int = 12,
    num_microbatches: int = 6,
    compute: float = 0.6,
    setups: float = 0.25,
    per_block: bool = False,
    equal: bool = True,
) -> SetupProblem:
    """Two one-device replicas, three subnets to a block; FULL costs 3, REST 2, FORWARD_ONLY 1."""
    rng = np.random.default_rng(seed)
    shape = (num_subnets, num_microbatches)
    forward, backward = rng.gamma(2, 1, shape), rng.gamma(2, 1, shape)
    value = np.stack([np.zeros(shape), forward, forward + backward], axis=-1)
    unit = 1.0 if equal else rng.choice([1.0, 2.0, 3.0], num_microbatches)
    unit = np.broadcast_to(unit, shape)
    knapsack = np.broadcast_to(np.arange(num_microbatches) % 2, shape)
    if per_block:
        knapsack = knapsack + 2 * (np.arange(num_subnets) // 3)[:, None]
    cost = unit[..., None] * np.array([0.0, 1.0, 3.0])
    dense = np.bincount(knapsack.ravel(), cost[..., 2].ravel())
    setup = np.ones((1, num_subnets)) if equal else rng.uniform(1, 3, (1, num_subnets))
    return SetupProblem(
        Problem(value, cost[None], knapsack, compute * dense[:, None]),
        rest_value=forward + 0.5 * backward,
        rest_cost=2 * unit[None],
        setup_cost=setup,
        setup_capacity=setups * setup.sum(axis=1),
    )


def schedule_of(solution: Solution) -> np.ndarray:
    assert solution.schedule is not None
    return solution.schedule


def test_where_compute_does_not_bind_the_top_k_train() -> None:
    problem = replicas(compute=1.0)
    solution = solve_setups(problem)
    gain = (problem.problem.value[..., Operation.FULL] - problem.rest_value).sum(axis=1)
    best = set(np.argsort(-gain)[:3].tolist())
    assert set(np.flatnonzero(problem.trains(schedule_of(solution))).tolist()) == best
    expected = problem.rest_value.sum() + np.sort(gain)[-3:].sum()
    assert solution.objective == pytest.approx(expected)
    assert solution.status == Status.OPTIMAL


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("setups", [0.2, 0.25, 0.5])
def test_ties_are_proven(per_block: bool, setups: float) -> None:
    problem = replicas(compute=1.0, setups=setups, per_block=per_block)
    same = replace(
        problem,
        problem=replace(
            problem.problem,
            value=np.broadcast_to(np.array([0.0, 1.0, 3.0]), problem.problem.value.shape),
        ),
        rest_value=np.full(problem.rest_value.shape, 2.0),
    )
    solution = solve_setups(same)
    num_trained = int(12 * setups * (1 + 1e-9))
    assert solution.status == Status.OPTIMAL
    assert solution.objective == pytest.approx(12 * 6 * 2 + num_trained * 6)


def test_without_setups_to_spend_everything_rests() -> None:
    problem = replicas(setups=0.0)
    solution = solve_setups(problem)
    assert not problem.trains(schedule_of(solution)).any()
    assert solution.status == Status.OPTIMAL
    given = solve_given_groups(problem, np.zeros(12, dtype=bool))
    assert solution.objective == pytest.approx(given.objective)


def test_with_all_to_spend_everything_is_full() -> None:
    problem = replicas(compute=1.0, setups=1.0)
    solution = solve_setups(problem)
    assert (schedule_of(solution) == Operation.FULL).all()
    assert solution.status == Status.OPTIMAL


@pytest.mark.parametrize("per_block", [False, True])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_prices_and_one_model_agree(seed: int, per_block: bool, equal: bool) -> None:
    problem = replicas(seed, num_subnets=6, per_block=per_block, equal=equal, setups=0.4)
    ours, model = solve_setups(problem), solve_setups(problem, solver="highs", time_limit_s=60)
    assert ours.status == model.status == Status.OPTIMAL
    assert ours.objective == pytest.approx(model.objective, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_group_trains_or_rests_as_one(seed: int) -> None:
    free = replicas(seed)
    grouped = replace(free, group=np.arange(12) // 3)
    solution = solve_setups(grouped)
    schedule = schedule_of(solution)
    resting = (schedule == Operation.REST).any(axis=1)
    assert not (resting & grouped.trains(schedule)[grouped.group]).any()
    assert solution.objective <= solve_setups(free).upper_bound


def test_chosen_groups_beat_those_whose_turn_it_is() -> None:
    problem = replicas()
    best = solve_setups(problem)
    for step in range(4):
        trains = in_turns(step, 0, problem.group_setup_cost[0], 0.25)
        taken = solve_given_groups(problem, trains)
        assert (problem.trains(schedule_of(taken)) <= trains).all()
        assert taken.objective <= best.objective
        assert taken.status == Status.FEASIBLE


def test_the_lower_dual_is_a_bound_at_any_prices() -> None:
    problem = replicas(equal=False)
    rows = setup_rows(problem)
    dual = SetupDual(problem, rows)
    best = solve_setups(problem).objective
    rng = np.random.default_rng(0)
    for _ in range(50):
        price = rng.exponential(1, len(rows.limit)) * rng.choice([0.1, 1, 10])
        assert dual.at(price).bound >= best
    assert best <= dual.lowest().bound <= 1.01 * best


def test_a_limit_of_time_ends_in_a_schedule_with_a_bound() -> None:
    problem = replicas(num_subnets=24, num_microbatches=16, equal=False)
    solution = solve_setups(problem, time_limit_s=1e-3)
    assert problem.violation(schedule_of(solution)) is None
    assert solution.upper_bound >= solution.objective


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_cannot_be_is_infeasible(solver: str) -> None:
    problem = replicas(num_subnets=3, num_microbatches=2)
    base = problem.problem
    must = replace(base, cost=base.cost + 1, capacity=np.array([[2.5], [9.0]]))
    solution = solve_setups(replace(problem, problem=must), solver=solver)
    assert solution.status == Status.INFEASIBLE
    assert solution.schedule is None


def test_shared_limits_count_what_rests() -> None:
    problem = replicas(num_subnets=4, num_microbatches=4, compute=1.0)
    limit = SharedLimit(0, np.zeros(4, dtype=int), np.array([20.0]), "budget")
    shared = replace(problem, problem=replace(problem.problem, shared=(limit,)))
    ours, model = solve_setups(shared), solve_setups(shared, solver="scip")
    assert ours.objective == pytest.approx(model.objective, rel=1e-6)
    assert ours.upper_bound >= model.objective * (1 - 1e-9)
    cost = np.take_along_axis(shared.cost[0], schedule_of(ours)[..., None].astype(int), axis=2)
    assert cost.sum() <= 20


def test_wrong_arguments_are_named() -> None:
    problem = replicas()
    with pytest.raises(InputError, match="solver 'dp' is unknown; it must be one of lagrangian"):
        solve_setups(problem, solver="dp")
    with pytest.raises(InputError, match="time limit is 0"):
        solve_setups(problem, time_limit_s=0)
    with pytest.raises(InputError, match="seed is -1"):
        solve_setups(problem, seed=-1)
    with pytest.raises(InputError, match=r"trains has shape \[3\]"):
        solve_given_groups(problem, np.ones(3, dtype=bool))
    with pytest.raises(InputError, match="12 groups that train break a capacity"):
        solve_given_groups(problem, np.ones(12, dtype=bool))
