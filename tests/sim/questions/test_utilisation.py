"""Tables of how busy devices and links are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.network.exchange_time import channel_seconds, link_loads
from sim.questions.utilisation import KINDS_OF_WORK, device_utilisation, link_utilisation


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_busy_seconds_add_up_and_fit_the_step(random_step, seed):
    step = random_step(seed).predicted()
    devices = device_utilisation(step)
    parts = sum(devices[f"{kind}_s"] for kind in KINDS_OF_WORK)
    np.testing.assert_allclose(parts, devices["busy_s"], rtol=1e-12)
    np.testing.assert_allclose(devices["busy_s"] + devices["idle_s"], step.step_s, rtol=1e-12)
    links = link_utilisation(step)
    assert (links["busy_fraction"] <= 1 + 1e-9).all()
    assert (links["bytes"] > 0).all()
    assert (links["busy_s"].diff().dropna() <= 0).all()
    assert links["bytes"].sum() == pytest.approx(2 * step.exchange_bytes)


def test_half_duplex_directions_share_their_channel(random_step):
    for seed in range(20):
        step = random_step(seed)
        prediction = step.predicted()
        table = link_utilisation(prediction).set_index("link")
        summary = prediction.link_bytes().set_index("link")["utilisation"]
        np.testing.assert_allclose(summary[table.index], table["busy_fraction"])
        for link in step.cluster.links:
            ways = [f"{link.source} -> {link.target}", f"{link.target} -> {link.source}"]
            if not set(ways) <= set(table.index):
                continue
            both = table.loc[ways, "bytes"]
            carried = both.sum() if link.duplex == "half" else both
            expected = carried / link.bandwidth_bytes_per_s
            np.testing.assert_allclose(table.loc[ways, "busy_s"], expected)


def test_channels_of_one_message(random_step):
    step = random_step(3, num_devices=2)
    carried = link_loads(step.cluster, np.array([[0.0, 1e6], [0.0, 0.0]]))
    seconds = channel_seconds(step.cluster, carried)
    out, back = step.cluster.route(0, 1)
    expected = np.zeros(4)
    for link in (out, back):
        bandwidth = step.cluster.link_bandwidth_bytes_per_s[link]
        expected[step.cluster.link_channel[link]] = 1e6 / bandwidth
    np.testing.assert_allclose(seconds, expected)
