"""Subnets that do the same: how many, what is lost, against every partition of small cases."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.patterns import patterns
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.solvers.registry import solve

seeds = st.integers(0, 2**32)


def random_case(seed, num_subnets=4, num_microbatches=4):
    """Values, costs and a capacity of one knapsack."""
    rng = np.random.default_rng(seed)
    size = (num_subnets, num_microbatches)
    of_subnet, of_microbatch = rng.exponential(size=(size[0], 1)), rng.exponential(size=size[1])
    scale = [np.ones(size), of_subnet, of_microbatch][seed % 3]
    forward, backward = (rng.random(size) * scale for _ in range(2))
    value = np.stack([0 * forward, forward, forward + 2 * backward], axis=2)
    cost = np.broadcast_to(np.array([0.0, 1.0, 3.0]), value.shape)[None]
    return value, cost, np.array([[rng.uniform(0.3, 0.8) * 3 * forward.size]])


def patterns_of(value, cost, capacity, most):
    none = np.zeros(len(value), dtype=int)
    return patterns(value, cost, none, capacity, none, most)


def best_with(value, cost, capacity, pattern):
    """The most value where subnets of one pattern do the same."""
    together = (np.arange(max(pattern) + 1)[:, None] == np.asarray(pattern)).astype(float)
    merged = np.einsum("ps,sco->pco", together, value), np.einsum("ps,rsco->rpco", together, cost)
    return solve(Problem(*merged, np.zeros(len(together), dtype=int), capacity)).objective


def numbered_by_first(pattern):
    return all(n <= max(pattern[:i], default=-1) + 1 for i, n in enumerate(pattern))


def test_few_patterns_are_near_the_best_of_all_partitions():
    shares = []
    every = [p for p in product(range(4), repeat=4) if numbered_by_first(p)]
    for seed in range(6):
        case = random_case(seed)
        best = {pattern: best_with(*case, pattern) for pattern in every}
        for most in (2, 3):
            most_value = max(v for pattern, v in best.items() if max(pattern) < most)
            shares.append(best_with(*case, patterns_of(*case, most)) / most_value)
    assert min(shares) > 0.85
    assert np.mean(shares) > 0.97


@settings(max_examples=20)
@given(seeds, st.integers(1, 6))
def test_more_patterns_divide_those_of_fewer(seed, most):
    value, cost, capacity = random_case(seed, num_subnets=7, num_microbatches=3)
    fewer, more = (patterns_of(value, cost, capacity, n) for n in (most, most + 1))
    assert fewer.max() + 1 == most
    assert len(set(zip(fewer, more, strict=True))) == more.max() + 1


def test_subnets_that_count_for_other_microbatches_stay_apart():
    kinds = np.array([0, 1, 0, 1, 1, 0])
    wanted = np.array([[1.0, 1.0, 0.1, 0.1], [0.1, 0.1, 1.0, 1.0]])[kinds]
    value = wanted[:, :, None] * np.array([0.0, 1.0, 3.0])
    cost = np.broadcast_to(np.array([0.0, 1.0, 3.0]), value.shape)[None]
    found = patterns_of(value, cost, np.array([[36.0]]), 2)
    np.testing.assert_array_equal(found, kinds)
    assert best_with(value, cost, np.array([[36.0]]), found) == pytest.approx(36.0)


def test_subnets_of_different_sites_stay_apart():
    value, cost, capacity = random_case(3, num_subnets=6)
    site = np.array([0, 1, 0, 1, 2, 2])
    found = patterns(value, cost, site, np.tile(capacity, (3, 1)), site, 1)
    np.testing.assert_array_equal(found, site)


SHAPE = ModelShape("m", 2, 4, 8, 32, 64, 5)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4,) * 3)
ALONE = Cluster("alone", (Device("d", 1e9, 10**9, 1e18),))


@settings(max_examples=10)
@given(seeds, st.floats(0.3, 0.9))
def test_a_plan_of_more_patterns_has_no_less_value(seed, compute):
    rng = np.random.default_rng(seed)
    scores = Scores(rng.random((8, 3)), rng.random((8, 3)))
    plans = [
        make_plan(deploy(WORKLOAD, ALONE), scores, Budget(compute, patterns=most))
        for most in (1, 2, 3, 4, None)
    ]
    values = [plan.solver.objective for plan in plans]
    assert np.all(np.diff(values) >= -1e-9)
    assert values[3] == pytest.approx(values[4])
    for most, plan in enumerate(plans[:-1], 1):
        for block in range(2):
            rows = plan.schedule[WORKLOAD.partition.of_block(block)]
            assert len(np.unique(rows, axis=0)) <= most


def test_a_block_has_at_least_one_pattern():
    with pytest.raises(InputError, match="patterns are 0"):
        Budget(patterns=0)
