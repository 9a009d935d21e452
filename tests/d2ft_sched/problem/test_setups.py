"""Problems with setups: what is refused, what a schedule spends, what is left of one."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched import Coverage, Operation, Problem
from d2ft_sched.errors import InputError
from d2ft_sched.problem.setups import SetupProblem

S, P, F, R = Operation  # P: FORWARD_ONLY, the pass alone


def three_subnets(**changes: object) -> SetupProblem:
    """Two blocks; the first has two subnets that train together. Two micro-batches, two devices."""
    value = np.broadcast_to(np.array([0.0, 1.0, 3.0]), (3, 2, 3))
    cost = np.broadcast_to(np.array([0.0, 1.0, 3.0]), (1, 3, 2, 3))
    problem = SetupProblem(
        Problem(value, cost, np.array([[0, 1]] * 3), np.array([[9.5], [8.0]])),
        rest_value=np.full((3, 2), 2.0),
        rest_cost=np.full((1, 3, 2), 2.0),
        setup_cost=np.array([[1.0, 2.0, 4.0]]),
        setup_capacity=np.array([6.0]),
        group=np.array([0, 0, 1]),
        knapsack_setup_cost=np.array([[[0.25, 0.25, 0.25]], [[0.0, 0.0, 0.0]]]),
    )
    return replace(problem, **changes)


def test_a_schedule_is_worth_and_spends_what_its_operations_do() -> None:
    problem = three_subnets()
    schedule = np.array([[F, P], [P, F], [R, S]])
    assert problem.objective(schedule) == 3 + 1 + 1 + 3 + 2
    assert problem.trains(schedule).tolist() == [True, False]
    assert problem.violation(schedule) is None


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([[F, P], [P, R], [S, S]], "subnet 1 rests while its group 0 trains"),
        ([[F, P], [P, P], [F, S]], "setups spend 7 of 6 in resource 0"),
        ([[F, F], [F, F], [R, R]], None),
        ([[F, F], [F, F], [P, P]], None),
        ([[S, F], [S, F], [S, S]], None),
        ([[4, 0], [0, 0], [0, 0]], "not a table"),
    ],
)
def test_what_breaks_a_constraint_is_named(schedule: list[list[int]], message: str | None) -> None:
    violation = three_subnets().violation(np.array(schedule))
    assert violation is None if message is None else message in str(violation)


def test_updates_are_paid_once_from_the_knapsacks_of_the_devices() -> None:
    schedule = np.array([[F, S], [F, S], [R, S]])
    assert three_subnets().violation(schedule) is None
    tight = three_subnets(
        problem=replace(three_subnets().problem, capacity=np.array([[8.25], [8.0]]))
    )
    assert tight.violation(schedule) == "knapsack 0 spends 8.5 of 8.25 in resource 0"
    assert tight.violation(np.array([[F, S], [S, S], [R, S]])) is None


def test_given_groups_leave_a_problem_without_setups() -> None:
    problem = three_subnets()
    trains = np.array([True, False])
    given = problem.given(trains)
    assert given.value[:, 0, F].tolist() == [3, 3, 2]
    assert given.cost[0, :, 0, F].tolist() == [3, 3, 2]
    assert given.capacity[:, 0] == pytest.approx([9.0, 8.0])
    schedule = problem.schedule(trains, np.array([[F, F], [P, F], [F, P]]))
    assert schedule.tolist() == [[F, F], [P, F], [R, P]]
    assert problem.fits(trains)
    assert not problem.fits(np.array([True, True]))


def test_resting_subnets_cover_their_block() -> None:
    problem = three_subnets()
    base = replace(problem.problem, shared=(Coverage(np.array([0, 0, 1]), 1, "cover"),))
    covered = replace(problem, problem=base)
    assert covered.violation(np.array([[F, P], [S, S], [R, R]])) is None
    assert "cover" in str(covered.violation(np.array([[F, P], [S, S], [R, S]])))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rest_value", np.zeros((3, 3)), r"rest_value has shape \[3, 3\]; it must be \[3, 2\]"),
        ("rest_value", np.full((3, 2), np.nan), r"rest_value\[0, 0\] is nan"),
        ("rest_cost", -np.ones((1, 3, 2)), r"rest_cost\[0, 0, 0\] is -1"),
        ("setup_cost", np.ones((2, 3)), r"setup_cost has shape \[2, 3\]; it must be \[1, 3\]"),
        ("setup_cost", np.full((1, 3), np.inf), r"setup_cost\[0, 0\] is inf"),
        ("setup_capacity", np.array([-1.0]), r"setup_capacity\[0\] is -1"),
        ("group", np.array([0, 0, 3]), r"group\[2\] is 3; it must be from 0 to 2"),
        ("group", np.array([0.0, 0, 1]), "group must be whole numbers"),
        ("knapsack_setup_cost", np.zeros((2, 3)), "knapsack_setup_cost has 2 axes"),
    ],
)
def test_wrong_tables_are_named(field: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        three_subnets(**{field: value})
