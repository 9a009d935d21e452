import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from runtime.measure.network_fit import NetworkTimes, fit_network

SIZES = np.array([1e5, 1e6, 4e6])


def devices(number: int) -> tuple[Device, ...]:
    return tuple(Device(f"d{i}", 1e10, 10**9, 1e9) for i in range(number))


def times(pair_rate: np.ndarray, latency_s: float, busiest_per_byte: float) -> NetworkTimes:
    rate = np.where(np.eye(len(pair_rate), dtype=bool), np.inf, pair_rate)
    return NetworkTimes(
        SIZES,
        SIZES[:, None, None] / rate + latency_s,
        SIZES,
        SIZES * busiest_per_byte + latency_s,
    )


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(1e6, 1e9), min_size=2, max_size=6),
    st.floats(0, 1e-2),
)
def test_a_switch_is_found_again(rates, latency_s):
    own = np.array(rates)
    num = len(own)
    narrower = np.minimum(own[:, None], own)
    fit = fit_network("c", devices(num), times(narrower, latency_s, (num - 1) / own.min()))
    assert fit.cluster.topology == "star"
    assert fit.star_misfit == pytest.approx(0, abs=1e-6)
    assert fit.pair_r_squared == pytest.approx(1)
    pairs = ~np.eye(num, dtype=bool)
    bandwidth = fit.cluster.path_bandwidth_bytes_per_s()
    assert bandwidth[pairs] == pytest.approx(narrower[pairs])
    assert fit.cluster.path_latency_s()[pairs] == pytest.approx(latency_s, abs=1e-8)
    assert fit.all_predicted_s == pytest.approx(SIZES * (num - 1) / own.min() + latency_s, abs=1e-7)


def test_rates_that_no_switch_has_become_links_between_pairs():
    rate = np.array(
        [[0, 1e9, 1e8, 1e8], [1e9, 0, 1e8, 1e8], [1e8, 1e8, 0, 1e9], [1e8, 1e8, 1e9, 0]]
    )
    fit = fit_network("islands", devices(4), times(rate, 1e-4, 1e-8))
    assert fit.cluster.topology == "full_mesh"
    assert fit.star_misfit == pytest.approx(0.9)
    pairs = ~np.eye(4, dtype=bool)
    assert fit.cluster.path_bandwidth_bytes_per_s()[pairs] == pytest.approx(rate[pairs])
    assert fit.cluster.path_latency_s()[pairs] == pytest.approx(1e-4)


def test_one_device_has_no_network():
    with pytest.raises(InputError, match="2 or more devices; there is 1"):
        fit_network("one", devices(1), times(np.zeros((1, 1)), 0.0, 1e-9))
