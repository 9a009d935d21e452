import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.compute_curve import ComputeCurve, WorkKind
from d2ft_sched.errors import InputError

CURVE = ComputeCurve(work=(1e9, 2e9, 4e9), seconds=(1.0, 1.0, 3.0))


def test_linear_between_points_floor_below_last_slope_above():
    work = np.array([[0.0, 1.0, 1e9], [1.5e9, 3e9, 8e9]])
    np.testing.assert_allclose(CURVE.seconds_at(work), [[0.0, 1.0, 1.0], [1.0, 2.0, 7.0]])
    assert CURVE.seconds_at(4e9).shape == ()
    assert CURVE.calibrated_range == (1e9, 4e9)


def test_scaled_is_faster_at_every_size():
    work = np.array([1.0, 3e9, 8e9])
    np.testing.assert_allclose(CURVE.scaled(4.0).seconds_at(work), CURVE.seconds_at(work) / 4)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0, 1e3)), min_size=2, max_size=8),
    st.lists(st.floats(0, 1e5), min_size=2, max_size=30),
)
def test_more_work_never_takes_less_time(steps, sizes):
    work, seconds = np.cumsum(np.array(steps), axis=0).T
    curve = ComputeCurve(tuple(work.tolist()), tuple((seconds + 1e-3).tolist()))
    times = curve.seconds_at(np.sort(sizes))
    assert (np.diff(times) >= -1e-9 * times[1:]).all()
    np.testing.assert_allclose(curve.seconds_at(work), seconds + 1e-3, rtol=1e-12)


@pytest.mark.parametrize(
    ("work", "seconds", "message"),
    [
        ((1.0,), (1.0,), "at least 2"),
        ((1.0, 2.0), (1.0,), "2 sizes and 1 times"),
        ((2.0, 1.0), (1.0, 2.0), "it must increase"),
        ((1.0, 1.0), (1.0, 2.0), "it must increase"),
        ((1.0, 2.0), (2.0, 1.0), "must not decrease"),
        ((0.0, 2.0), (1.0, 1.0), "above 0"),
        ((1.0, math.nan), (1.0, 1.0), "above 0 and finite"),
        ((1.0, 2.0), (1.0, math.inf), "above 0 and finite"),
    ],
)
def test_bad_points(work, seconds, message):
    with pytest.raises(InputError, match=message):
        ComputeCurve(work, seconds)


def test_kinds_by_axis():
    assert WorkKind("mlp_forward") is WorkKind.MLP_FORWARD
    assert [k for k in WorkKind if k.is_memory_bound] == [
        WorkKind.TRUNK_FORWARD,
        WorkKind.TRUNK_BACKWARD,
        WorkKind.OPTIMIZER,
    ]
