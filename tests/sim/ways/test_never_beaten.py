"""Plans never lose to their own table: some of the cases of `bench.bench_ways`, which has all."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.bench_ways import row
from bench.ways.least_dense import LeastDense
from bench.ways.way_cases import Case, cases, odd_cases
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from sim.ways.plans import plan_on_ways
from sim.ways.search import search_ways

SMALL = [
    case
    for case in cases(2, 2)
    if len(case.cluster.devices) <= 2 and case.workload.shape.num_blocks <= 12
]


def test_there_are_enough_cases() -> None:
    assert len(list(cases())) >= 40
    assert len(list(odd_cases())) >= 12


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_no_way_and_no_fewer_samples_are_faster(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = row(case)
    assert found["lower_bound_s"] < found["least_dense_s"]
    assert found["over_least"] <= 0.01
    assert found["compute_0.6_s"] <= found["fewer_samples_s"]
    assert found["and_bytes_0.5_s"] <= found["fewer_samples_s"]


SHAPE = vision_transformer_shape(
    "tiny", image_size=24, patch_size=8, width=48, num_blocks=2, num_heads=4, mlp_hidden=96,
    num_classes=10,
)  # fmt: skip


@settings(deadline=None, max_examples=10, derandomize=True)
@given(
    speeds=st.lists(st.sampled_from([0.02, 0.3, 1.0, 2.0, 5.0]), min_size=1, max_size=3),
    bandwidth=st.sampled_from([1e6, 1e7, 1e8, 1e9, 1e11]),
    memory_bytes=st.sampled_from([1e6, 1e9]),
    microbatches=st.sampled_from([(1,) * 8, (4,) * 4]),
    lora=st.sampled_from([None, Lora(4, 8.0)]),
)
def test_random_clusters_are_not_beaten(speeds, bandwidth, memory_bytes, microbatches, lora):
    devices = tuple(
        Device(f"d{i}", 1e9 * v, int(memory_bytes), 1e9 * v, launch_s=1e-6)
        for i, v in enumerate(speeds)
    )
    star = topology.star([d.name for d in devices], Cable(bandwidth, 1e-5))
    cluster = Cluster("switch", devices, star.links, star.switches)
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 1), microbatches, lora=lora)
    search = search_ways(workload, cluster)
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    least_s = LeastDense(workload, cluster).found().step_s
    assume(np.isfinite(least_s))
    whole, part = (
        plan_on_ways(workload, cluster, scores, Budget(compute=c), search=search) for c in (1, 0.6)
    )
    assert whole.step_s <= 1.01 * least_s
    assert part.step_s <= part.fewer.dense_step_s
