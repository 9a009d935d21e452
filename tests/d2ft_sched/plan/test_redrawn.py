"""Schedules drawn anew: as many heads or blocks train as in the plan's, and what is left out stays
so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ft_sched.plan.redrawn import POLICIES, chooses, is_redrawable, redrawn, resting_units
from d2ft_sched.schedule.operations import Operation

S, O, F, R = Operation.SHORTCUT, Operation.FORWARD_ONLY, Operation.FULL, Operation.REST  # noqa: E741
BLOCK = np.repeat(np.arange(6), 2)


def schedule_of(
    trained: set[int], left_out: set[int], num_microbatches: int = 4, unit: np.ndarray = BLOCK
) -> np.ndarray:
    """Units that train are FULL, the others REST."""
    operation = np.where(np.isin(unit, sorted(trained)), F, R)[:, None]
    table = np.repeat(operation, num_microbatches, axis=1)
    table[:, sorted(left_out)] = S
    return table.astype(np.int8)


@given(
    st.sets(st.integers(0, 5), min_size=1),
    st.sets(st.integers(0, 3), max_size=3),
    st.integers(0, 50),
    st.sampled_from(sorted(POLICIES)),
)
def test_a_step_trains_as_many_blocks_and_runs_the_same_microbatches(trained, out, step, policy):
    plan = schedule_of(trained, out)
    assert is_redrawable(plan)
    assert resting_units(plan, BLOCK).tolist() == BLOCK.tolist()
    found = redrawn(plan, BLOCK, step, 7, policy)
    assert ((found == S) == (plan == S)).all()
    trains = (found == F).any(axis=1)
    assert len(set(BLOCK[trains].tolist())) == len(trained)
    assert (trains[::2] == trains[1::2]).all()
    assert (found == redrawn(plan, BLOCK, step, 7, policy)).all()


@given(
    st.sets(st.integers(0, 11), min_size=1, max_size=11),
    st.sets(st.integers(0, 3), max_size=3),
    st.integers(0, 50),
    st.sampled_from(sorted(POLICIES)),
)
def test_a_step_trains_as_many_heads_where_those_of_a_block_differ(trained, out, step, policy):
    plan = schedule_of(trained, out, unit=np.arange(12))
    assert is_redrawable(plan)
    unit = resting_units(plan, BLOCK)
    trains = (plan == F).any(axis=1)
    assert len(set(unit.tolist())) == (6 if (trains[::2] == trains[1::2]).all() else 12)
    found = redrawn(plan, unit, step, 7, policy)
    assert ((found == S) == (plan == S)).all()
    assert (found == F).any(axis=1).sum() == len(trained)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_block_has_its_turn(policy):
    plan = schedule_of({0, 1}, set())
    trained = sum((redrawn(plan, BLOCK, step, 0, policy) == F).any(axis=1) for step in range(30))
    assert (trained > 0).all()
    if policy == "turns":
        assert (trained == 10).all()


def test_what_cannot_be_drawn_anew():
    dense = schedule_of(set(range(6)), set())
    assert not chooses(dense)
    assert chooses(schedule_of({0}, set()))
    assert chooses(schedule_of(set(range(6)), {1}))
    for row, column, operation in ((0, 0, O), (0, 0, S), (0, 0, R)):
        other = schedule_of({0, 3}, {2})
        other[row, column] = operation
        assert not is_redrawable(other)
