"""Which groups train where no scores decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.problem.resting import drawn, drawn_by_scores, in_turns

COSTS = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=12).map(np.array)
BUDGETS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("choose", [drawn, in_turns])
@given(COSTS, BUDGETS, st.integers(0, 1000), st.integers(0, 3))
def test_a_choice_is_a_function_of_the_step_and_keeps_the_budget(
    choose, cost: np.ndarray, budget: float, step: int, seed: int
) -> None:
    trains = choose(step, seed, cost, budget)
    assert trains.dtype == bool
    assert trains.shape == cost.shape
    assert cost[trains].sum() <= budget * cost.sum() * (1 + 1e-9)
    assert (trains == choose(step, seed, cost, budget)).all()


@pytest.mark.parametrize("choose", [drawn, in_turns])
def test_a_quarter_of_equal_groups_is_a_quarter_of_them(choose) -> None:
    assert choose(5, 1, np.full(12, 0.1), 0.25).sum() == 3
    assert not choose(5, 1, np.ones(12), 0.0).any()
    assert choose(5, 1, np.ones(12), 1.0).all()


@given(COSTS, BUDGETS, st.integers(0, 3))
def test_turns_visit_every_group_equally_often(cost: np.ndarray, budget: float, seed: int) -> None:
    visits = sum(in_turns(step, seed, cost, budget).astype(int) for step in range(len(cost)))
    assert len(set(visits.tolist())) == 1


def test_turns_wait_for_all_others() -> None:
    chosen = [np.flatnonzero(in_turns(step, 7, np.ones(12), 0.25)) for step in range(4)]
    assert sorted(np.concatenate(chosen)) == list(range(12))


def test_draws_favour_no_group_and_repeat_none() -> None:
    draws = np.array([drawn(step, 3, np.ones(8), 0.25) for step in range(2000)])
    assert (draws.sum(axis=1) == 2).all()
    assert np.abs(draws.mean(axis=0) - 0.25).max() < 0.04
    pairs = {tuple(np.flatnonzero(d)) for d in draws}
    assert len(pairs) == 28
    assert (draws != [drawn(step, 4, np.ones(8), 0.25) for step in range(2000)]).any()


@pytest.mark.parametrize(
    ("step", "seed", "cost", "budget", "message"),
    [
        (-1, 0, np.ones(2), 0.5, "step is -1"),
        (0, -1, np.ones(2), 0.5, "seed is -1"),
        (0, 0, -np.ones(2), 0.5, "setup_cost"),
        (0, 0, np.ones(2), 1.5, "budget of setups is 1.5"),
    ],
)
def test_wrong_arguments_are_named(
    step: int, seed: int, cost: np.ndarray, budget: float, message: str
) -> None:
    for choose in (drawn, in_turns):
        with pytest.raises(InputError, match=message):
            choose(step, seed, cost, budget)


def test_scores_say_how_often_a_group_trains() -> None:
    score = np.array([4.0, 2.0, 1.0, 1.0, 0.0])
    chosen = np.array([drawn_by_scores(s, 0, np.ones(5), 0.2, score) for s in range(4000)])
    assert (chosen.sum(axis=1) == 1).all()
    assert chosen.mean(axis=0) == pytest.approx(score / 8, abs=0.03)
    assert drawn_by_scores(0, 0, np.ones(5), 1.0, score).all()
    assert drawn_by_scores(0, 0, np.ones(5), 0.4, np.zeros(5)).sum() == 2


@given(COSTS, BUDGETS, st.integers(0, 99), st.data())
def test_a_choice_by_scores_keeps_the_budget(cost, budget, step, data) -> None:
    scores = st.lists(st.floats(0, 1e12), min_size=len(cost), max_size=len(cost))
    score = np.array(data.draw(scores))
    trains = drawn_by_scores(step, 0, cost, budget, score)
    assert cost[trains].sum() <= budget * cost.sum() * (1 + 1e-9)
    assert (trains == drawn_by_scores(step, 0, cost, budget, score)).all()


@pytest.mark.parametrize("score", [[1.0], [1.0, -1.0], [1.0, np.nan]])
def test_scores_that_are_none_are_refused(score) -> None:
    with pytest.raises(InputError, match="scores of groups must be finite"):
        drawn_by_scores(0, 0, np.ones(2), 0.5, np.array(score))
