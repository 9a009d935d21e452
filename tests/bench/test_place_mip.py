"""The placement MIP against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.placement.place_mip import place_mip
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.placement_search.dense_step import DenseStep
from small_placements import SHAPE, best_of_all, clusters, workload_of


@settings(deadline=None, max_examples=8)
@given(clusters(most=2), st.sampled_from(["highs", "scip"]), st.sampled_from([1, [1, 3]]))
def test_the_mip_finds_the_optimum(cluster, backend, heads):
    workload = workload_of(heads, (4, 4, 2))
    best = best_of_all(workload, cluster)
    found = place_mip(workload, cluster, backend=backend, time_limit_s=5)
    assert found.lower_bound_s <= best * (1 + 1e-6)
    assert found.dense_step_s == pytest.approx(best, rel=1e-3)


def test_the_mip_bounds_placements_that_differ_between_equal_blocks():
    shape = replace(
        SHAPE, num_heads=2, mlp_hidden=7, num_tokens=9, num_qkv_maps=1, trunk_parameters=10
    )
    devices = (Device("d0", 5.3e8, 10**12, 6.3e8), Device("d1", 4.2e9, 10**12, 2.1e8))
    cluster = Cluster("c", devices, (Link("d0", "d1", 9e8, 1e-5, "half"),))
    workload = workload_of(samples=(1,), shape=shape)
    found = place_mip(workload, cluster, time_limit_s=5)
    step = DenseStep(workload, cluster, (0, 1))
    unlike = np.array([[[1, 1], [0, 0]], [[1, 0], [0, 1]]])
    assert found.lower_bound_s <= step.seconds(unlike, (0,)) < found.dense_step_s
