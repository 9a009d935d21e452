import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.problem.budget import Budget, level_capacity, water_level_s

amounts = st.floats(0.01, 100)


@settings(deadline=None)
@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_level_deals_the_whole_budget(devices, fraction):
    demand, rate = np.array(devices).T
    level = water_level_s(demand, rate, fraction * demand.sum())
    dealt = np.minimum(demand, level * rate).sum()
    assert dealt == pytest.approx(fraction * demand.sum())


def test_equal_devices_get_the_fraction_each():
    capacity = level_capacity(np.full(6, 5.0), np.ones(6), np.zeros(6, int), 0.6)
    np.testing.assert_allclose(capacity, 3.0)


def test_a_slow_device_is_cut_first():
    rate = np.array([1, 1, 1, 1, 1, 0.4])
    capacity = level_capacity(np.ones(6), rate, np.zeros(6, int), (5 + 0.4) / 6)
    assert np.isinf(capacity[:5]).all()
    assert capacity[5] == pytest.approx(0.4)


def test_a_full_budget_binds_nowhere_and_groups_are_apart():
    demand, rate, group = np.array([1.0, 2, 3, 4]), np.array([1.0, 5, 1, 2]), np.array([0, 0, 1, 1])
    assert np.isinf(level_capacity(demand, rate, group, 1.0)).all()
    capacity = level_capacity(demand, rate, group, 0.5)
    for g in (0, 1):
        spent = np.minimum(demand, capacity)[group == g].sum()
        assert spent == pytest.approx(0.5 * demand[group == g].sum())


def test_free_knapsacks_stay_free():
    capacity = level_capacity(np.array([0.0, 2.0]), np.array([np.inf, 1.0]), np.zeros(2, int), 0.5)
    assert np.isinf(capacity[0])
    assert capacity[1] == pytest.approx(1.0)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
@pytest.mark.parametrize("name", ["compute", "communication", "memory"])
def test_a_fraction_out_of_range_is_refused(name, fraction):
    with pytest.raises(InputError, match=f"{name} budget is {fraction}"):
        Budget(**{name: fraction})
