"""Checks of a problem's arrays, and of schedules against its constraints."""

import numpy as np
import pytest

from d2ft_sched import Coverage, Operation, Problem, SharedLimit
from d2ft_sched.errors import InputError


def arrays(num_subnets: int = 3, num_microbatches: int = 4) -> dict[str, np.ndarray]:
    shape = (num_subnets, num_microbatches)
    return {
        "value": np.broadcast_to([0.0, 1.0, 2.0], (*shape, 3)).copy(),
        "cost": np.broadcast_to([0.0, 1.0, 3.0], (2, *shape, 3)).copy(),
        "knapsack": np.arange(num_subnets),
        "capacity": np.full((num_subnets, 2), 6.0),
    }


def broken(name: str, index: tuple[int, ...], entry: float) -> dict[str, np.ndarray]:
    changed = arrays()
    changed[name][index] = entry
    return changed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (broken("value", (0, 1, 2), np.nan), r"value\[0, 1, 2\] is nan"),
        (broken("value", (2, 0, 1), np.inf), r"value\[2, 0, 1\] is inf"),
        (broken("value", (2, 0, 1), 1e40), r"value\[2, 0, 1\] is 1e\+40; it must be at most"),
        (broken("cost", (1, 0, 1, 2), -1.0), r"cost\[1, 0, 1, 2\] is -1.0; it must be from 0"),
        (broken("cost", (0, 0, 0, 0), np.inf), r"cost\[0, 0, 0, 0\] is inf"),
        (broken("capacity", (1, 1), -0.5), r"capacity\[1, 1\] is -0.5"),
        (broken("capacity", (1, 0), np.nan), r"capacity\[1, 0\] is nan"),
        (broken("knapsack", (1,), 3), r"knapsack of subnet 1, micro-batch 0 is 3; capacity has 3"),
        (broken("knapsack", (1,), -1), r"knapsack of subnet 1, micro-batch 0 is -1"),
        (arrays() | {"value": np.zeros((3, 4, 2))}, r"value has shape \[3, 4, 2\]"),
        (arrays() | {"value": np.zeros((0, 4, 3))}, r"value has shape \[0, 4, 3\]"),
        (arrays() | {"value": np.zeros((3, 3))}, "value has 2 axes; it must have 3"),
        (arrays() | {"value": np.full((3, 4, 3), "a")}, "value is not an array of numbers"),
        (arrays() | {"cost": np.zeros((2, 3, 5, 3))}, r"cost has shape \[2, 3, 5, 3\]"),
        (arrays() | {"capacity": np.zeros((3, 1))}, r"capacity has shape \[3, 1\]"),
        (arrays() | {"knapsack": np.zeros(4, int)}, r"knapsack has shape \[4\]"),
        (arrays() | {"knapsack": np.zeros(3)}, "knapsack has type float64"),
    ],
)
def test_wrong_arrays_are_named(given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Problem(**given)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (SharedLimit(2, np.zeros(3, int), np.ones(1)), "resource of shared limit is 2"),
        (SharedLimit(0, np.zeros(2, int), np.ones(1)), r"group of shared limit has shape \[2\]"),
        (SharedLimit(0, np.full(3, 1), np.ones(1)), "goes up to 1; its capacity has 1"),
        (SharedLimit(0, np.full(3, -2), np.ones(1)), r"group of shared limit\[0\] is -2"),
        (SharedLimit(0, np.zeros(3, int), np.array([-1.0])), r"capacity of shared limit\[0\]"),
        (Coverage(np.zeros(3, int), -1), "minimum of coverage is -1"),
        (Coverage(np.zeros(3, int), 1.9), "minimum of coverage is 1.9; it must be a whole"),  # type: ignore[arg-type]
        (Coverage(np.zeros((3, 4), int)), r"group of coverage must be of shape \[3 subnets\]"),
    ],
)
def test_wrong_shared_constraints_are_named(
    constraint: SharedLimit | Coverage, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Problem(**arrays(), shared=(constraint,))


def test_arrays_are_not_copied_nor_locked() -> None:
    given = arrays()
    problem = Problem(**given)
    assert np.shares_memory(problem.cost, given["cost"])
    assert given["cost"].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        problem.cost[0] = 0


def test_spending_and_objective_of_a_schedule() -> None:
    problem = Problem(**arrays())
    schedule = np.array([[2, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert problem.objective(schedule) == 3 + 4
    np.testing.assert_array_equal(problem.spending(schedule), [[4, 4], [0, 0], [4, 4]])
    assert problem.violation(schedule) is None


def test_the_first_violation_is_named() -> None:
    schedule = np.full((3, 4), Operation.FORWARD_ONLY)
    schedule[1] = Operation.FULL
    message = Problem(**arrays()).violation(schedule)
    assert message is not None
    assert "knapsack 1 spends" in message
    assert Problem(**arrays()).violation(np.full((3, 4), 3)) is not None


def test_shared_violations_are_named() -> None:
    limit = SharedLimit(1, np.array([0, 0, -1]), np.array([3.0]), "uplink")
    coverage = Coverage(np.array([0, 0, 1]), 1, "cover")
    problem = Problem(**arrays(), shared=(limit, coverage))
    schedule = np.zeros((3, 4), dtype=int)
    schedule[2] = Operation.FORWARD_ONLY
    message = problem.violation(schedule)
    assert message is not None
    assert "cover: group 0 has 0 active subnets in micro-batch 0" in message
    schedule[0] = Operation.FORWARD_ONLY
    message = problem.violation(schedule)
    assert message is not None
    assert "uplink: group 0 spends" in message


@pytest.mark.parametrize("unit", [0.1, 1 / 3, 0.7, 1e-7, 12345.678])
def test_a_fraction_of_the_dense_cost_admits_its_whole_number_of_items(unit: float) -> None:
    """0.6 of five items is three of them, whatever the rounding."""
    shape = (1, 5)
    problem = Problem(
        value=np.broadcast_to([0.0, 0.0, 1.0], (*shape, 3)),
        cost=np.broadcast_to([0.0, 0.0, unit], (1, *shape, 3)),
        knapsack=np.zeros(1, int),
        capacity=np.array([[0.6 * 5 * unit]]),
    )
    assert problem.violation(np.array([[2, 2, 2, 0, 0]])) is None
    assert problem.violation(np.array([[2, 2, 2, 2, 0]])) is not None
