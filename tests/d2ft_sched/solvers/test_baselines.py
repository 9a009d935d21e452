"""The baselines do what their names say, within every constraint."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched import Coverage, Operation, Problem, SharedLimit, Solution, Status, solve
from d2ft_sched.errors import InputError

NUM_BLOCKS, NUM_HEADS, NUM_MICROBATCHES = 4, 3, 6
BLOCK = np.repeat(np.arange(NUM_BLOCKS), NUM_HEADS)
MAGNITUDE = np.random.default_rng(5).permutation(len(BLOCK)).astype(float)
OPTIONS: dict[str, dict[str, np.ndarray]] = {
    "fewer_microbatches": {},
    "uniform": {},
    "random": {},
    "greedy": {},
    "magnitude": {"magnitude": MAGNITUDE},
    "top_k": {"block": BLOCK},
    "frozen_prefix": {"block": BLOCK},
}


def problem_of(
    seed: int, fraction: float, by_block: bool = False, equal: bool = True, shared: bool = False
) -> Problem:
    """A device per head; capacities of compute and bytes as a fraction of dense."""
    rng = np.random.default_rng(seed)
    shape = (len(BLOCK), NUM_MICROBATCHES)
    score = rng.random((2, *shape))
    value = np.stack([np.zeros(shape), score[0], score.sum(axis=0)], axis=-1)
    unit = np.ones(shape) if equal else rng.uniform(0.5, 2, shape)
    cost = unit[..., None] * np.array([[0, 1, 3], [0, 1, 2.0]])[:, None, None]
    device = np.tile(np.arange(NUM_HEADS), NUM_BLOCKS)
    knapsack = np.arange(len(BLOCK)) if by_block else device
    capacity = np.stack([np.bincount(knapsack, c[..., 2].sum(axis=1)) for c in cost], axis=1)
    limits: tuple[SharedLimit, ...] = ()
    if shared:
        total = 0.8 * fraction * cost[1][..., 2].sum()
        limits = (SharedLimit(1, np.zeros(len(BLOCK), int), np.array([total]), "uplink"),)
    return Problem(value, cost, knapsack, fraction * capacity, limits)


def run(problem: Problem, solver: str, **options: object) -> Solution:
    return solve(problem, solver=solver, **(OPTIONS[solver] | options))


@pytest.mark.parametrize("solver", OPTIONS)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.15, 0.5, 0.8, 1.0]), *[st.booleans()] * 3)
@settings(max_examples=25, deadline=None)
def test_every_baseline_is_feasible_and_below_the_optimum(
    solver: str, seed: int, fraction: float, by_block: bool, equal: bool, shared: bool
) -> None:
    problem = problem_of(seed, fraction, by_block, equal, shared)
    solution = run(problem, solver)
    assert solution.schedule is not None
    assert problem.violation(solution.schedule) is None
    assert solution.objective <= solve(problem, time_limit_s=1).upper_bound * (1 + 1e-9)
    if fraction == 1.0 and not shared:
        assert (solution.schedule == Operation.FULL).all()
    elif fraction == 0.0:
        assert (solution.schedule == Operation.SHORTCUT).all()


def test_fewer_microbatches_keeps_the_best_whole_ones() -> None:
    problem = problem_of(0, 0.5)
    schedule = run(problem, "fewer_microbatches").schedule
    assert schedule is not None
    worth = problem.value[..., Operation.FULL].sum(axis=0)
    kept = np.argsort(-worth)[: NUM_MICROBATCHES // 2]
    expected = np.zeros_like(schedule)
    expected[:, kept] = Operation.FULL
    np.testing.assert_array_equal(schedule, expected)


def test_fewer_microbatches_keeps_all_where_every_one_must_be_covered() -> None:
    problem = problem_of(0, 1.0)
    cover = (Coverage(BLOCK, 1),)
    covered = Problem(problem.value, problem.cost, problem.knapsack, problem.capacity, cover)
    schedule = run(covered, "fewer_microbatches").schedule
    assert schedule is not None
    assert (schedule == Operation.FULL).all()


def test_fewer_microbatches_leaves_out_the_least_where_shortcut_costs_most() -> None:
    value = np.broadcast_to([[[0, 1, 2.0], [0, 2, 4.0], [0, 3, 6.0]]], (2, 3, 3))
    cost = np.broadcast_to([[[[2, 0, 0.0]]], [[[0, 1, 3.0]]]], (2, 2, 3, 3))
    problem = Problem(value, cost, np.zeros(2, int), np.array([[4.0, 12.0]]))
    schedule = run(problem, "fewer_microbatches").schedule
    np.testing.assert_array_equal(schedule, [[0, 2, 2]] * 2)


def test_uniform_gives_every_subnet_and_microbatch_about_as_much() -> None:
    schedule = run(problem_of(0, 0.5, by_block=True), "uniform").schedule
    assert schedule is not None
    full = schedule == Operation.FULL
    assert np.ptp(full.sum(axis=1)) == 0
    assert np.ptp(full.sum(axis=0)) <= 4
    other_scores = run(problem_of(1, 0.5, by_block=True), "uniform").schedule
    np.testing.assert_array_equal(schedule, other_scores)


def test_random_costs_what_its_reference_costs() -> None:
    problem = problem_of(0, 0.5, by_block=True)
    plan = solve(problem).schedule
    assert plan is not None
    drawn = run(problem, "random", reference=plan, seed=1).schedule
    assert drawn is not None
    np.testing.assert_allclose(problem.spending(drawn), problem.spending(plan))
    assert (drawn != plan).any()
    unequal = problem_of(0, 0.5, equal=False)
    plan = solve(unequal).schedule
    assert plan is not None
    drawn = run(unequal, "random", reference=plan).schedule
    assert drawn is not None
    assert (unequal.spending(drawn) <= unequal.spending(plan) * (1 + 1e-8)).all()
    assert unequal.spending(drawn).sum() >= 0.85 * unequal.spending(plan).sum()


def test_greedy_beats_random_by_far() -> None:
    problem = problem_of(0, 0.5)
    assert run(problem, "greedy").objective > 1.2 * run(problem, "random").objective


def test_magnitude_keeps_the_largest_subnets_of_every_device() -> None:
    schedule = run(problem_of(0, 0.5), "magnitude").schedule
    assert schedule is not None
    for head in range(NUM_HEADS):
        members = np.arange(head, len(BLOCK), NUM_HEADS)
        by_size = members[np.argsort(-MAGNITUDE[members])]
        assert (schedule[by_size[:2]] == Operation.FULL).all()
        assert (schedule[by_size[2:]] == Operation.SHORTCUT).all()


def test_top_k_takes_the_best_subnets_of_every_block() -> None:
    problem = problem_of(0, 0.9)
    schedule = run(problem, "top_k", k=1).schedule
    assert schedule is not None
    score = problem.value[..., Operation.FORWARD_ONLY]
    for b in range(NUM_BLOCKS):
        members = np.flatnonzero(b == BLOCK)
        full = schedule[members] == Operation.FULL
        assert (full.sum(axis=0) <= 1).all()
        best = score[members].argmax(axis=0)
        assert full[best, np.arange(NUM_MICROBATCHES)].all()


def test_a_frozen_prefix_is_as_short_as_the_capacity_allows() -> None:
    """A frozen block saves half its bytes, an eighth of all: 0.7 asks for three."""
    schedule = run(problem_of(0, 0.7), "frozen_prefix").schedule
    assert schedule is not None
    frozen = (schedule == Operation.FORWARD_ONLY).all(axis=1)
    np.testing.assert_array_equal(frozen, BLOCK < 3)
    assert (schedule[~frozen] == Operation.FULL).all()


def test_wrong_information_is_refused() -> None:
    problem = problem_of(0, 0.5)
    with pytest.raises(InputError, match="magnitude has shape"):
        run(problem, "magnitude", magnitude=np.ones(3))
    with pytest.raises(InputError, match=r"magnitude\[0\] is nan"):
        run(problem, "magnitude", magnitude=np.full(len(BLOCK), np.nan))
    with pytest.raises(InputError, match="k is 9; it must be between 1 and the 3 subnets"):
        run(problem, "top_k", k=9)
    with pytest.raises(InputError, match="reference: schedule has shape"):
        run(problem, "random", reference=np.zeros((2, 2), int))


def test_what_keeps_not_all_constraints_is_no_schedule() -> None:
    problem = problem_of(0, 0.5)
    cost = problem.cost + 1
    dear = Problem(problem.value, cost, problem.knapsack, problem.capacity * 1e-3)
    solution = run(dear, "uniform")
    assert solution.schedule is None
    assert solution.status == Status.TIME_LIMIT
    assert "knapsack 0 spends" in solution.method
