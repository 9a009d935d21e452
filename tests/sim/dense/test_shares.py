"""Samples dealt to devices, beside all ways to deal them."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.dense.shares import level_shares


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    return [c for c in product(range(total + 1), repeat=parts) if sum(c) == total]


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_level_shares_end_as_early_as_any(num_devices, total, seed, ties):
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 3, (num_devices, total)) if ties else rng.random((num_devices, total))
    seconds = np.concatenate([np.zeros((num_devices, 1)), np.cumsum(steps, axis=1)], axis=1)
    for row, most in zip(seconds, rng.integers(0, 2 * total, num_devices), strict=True):
        row[1 + most :] = np.inf
    shares = level_shares(seconds, total)
    rows = np.arange(num_devices)
    least = min(seconds[rows, list(c)].max() for c in compositions(total, num_devices))
    if shares is None:
        assert np.isinf(least)
    else:
        assert shares.sum() == total
        assert (shares >= 0).all()
        assert seconds[rows, shares].max() == least


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_devices_that_get_some_in_any_case_end_as_early_as_any_then(num_devices, total, seed):
    rng = np.random.default_rng(seed)
    steps = rng.random((num_devices, total))
    seconds = np.concatenate([np.zeros((num_devices, 1)), np.cumsum(steps, axis=1)], axis=1)
    for row, most in zip(seconds, rng.integers(0, 2 * total, num_devices), strict=True):
        row[1 + most :] = np.inf
    given_before, at_least = seconds.copy(), rng.integers(0, 3, num_devices)
    shares = level_shares(seconds, total, at_least)
    rows = np.arange(num_devices)
    possible = [c for c in compositions(total, num_devices) if (np.array(c) >= at_least).all()]
    least = min((seconds[rows, list(c)].max() for c in possible), default=np.inf)
    assert (seconds == given_before).all()
    if shares is None:
        assert np.isinf(least)
    else:
        assert shares.sum() == total
        assert (shares >= at_least).all()
        assert seconds[rows, shares].max() == least
