"""Prices of the relaxation, of many knapsacks at once."""

import numpy as np

from d2ft_sched.solvers.single.linear_relaxation import resource_prices


def test_a_batch_has_the_prices_of_each_knapsack_alone() -> None:
    """They are done after different numbers of iterations; some have nothing to choose."""
    rng = np.random.default_rng(0)
    value = np.cumsum(rng.lognormal(size=(3, 20, 8)), axis=0)
    cost = np.cumsum(rng.lognormal(size=(2, 3, 20, 8)), axis=1) * 10 ** rng.uniform(-3, 0, (20, 1))
    value[0], cost[:, 0] = 0.0, 0.0
    allowed = rng.random((3, 20, 8)) < 0.8
    allowed[0] = True
    allowed[1:, :3] = False
    together = resource_prices(value, cost, allowed)
    for k in range(20):
        alone = resource_prices(value[:, [k]], cost[:, :, [k]], allowed[:, [k]])
        np.testing.assert_allclose(together[:, [k]], alone, rtol=1e-5, atol=1e-9)
