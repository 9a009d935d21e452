"""Devices compute forward again where their memory asks for it, and only there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.deployment import Deployment
from d2ft_sched.model.decoder_config import decoder_shape
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import PassMemory, pass_seconds
from sim.step import simulate_dense
from sim.ways.estimate.load import dense_load
from sim.ways.estimate.steps import WaySteps
from sim.ways.search import best_dense, search_ways, way_of

SHAPE = decoder_shape(
    "small",
    {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 40,
        "max_position_embeddings": 64,
    },
    32,
)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (2, 2, 2), lora=Lora(2, 2.0))


def cluster_of(memory_bytes: list[float], speeds: list[float], bandwidth: float = 1e9) -> Cluster:
    some = tuple(
        Device(f"d{i}", 1e9 * v, int(m), 1e12, launch_s=1e-6)
        for i, (m, v) in enumerate(zip(memory_bytes, speeds, strict=True))
    )
    network = topology.star([d.name for d in some], Cable(bandwidth, 1e-6))
    return Cluster("lab", some, network.links, network.switches)


def needed(samples: int, recomputes: bool) -> float:
    several = samples < 6
    return float(PassMemory(WORKLOAD, recomputes).of(samples, several).total[0])


def test_ample_memory_computes_nothing_twice() -> None:
    way = best_dense(search_ways(WORKLOAD, cluster_of([1e9, 1e9], [1.0, 2.0])))
    assert all(replica.placement.recomputing == () for replica in way.replicas)


def test_a_device_that_holds_no_sample_else_computes_forward_again() -> None:
    assert needed(1, True) < needed(1, False)
    way = best_dense(search_ways(WORKLOAD, cluster_of([needed(1, False) - 1], [1.0])))
    (replica,) = way.replicas
    assert replica.placement.recomputing == (0,)
    assert way.fits


@settings(deadline=None, max_examples=12)
@given(memory_bytes=st.floats(needed(1, True), 1.2 * needed(6, False)))
def test_a_device_alone_takes_the_faster_and_its_estimate_is_the_prediction(
    memory_bytes: float,
) -> None:
    cluster = cluster_of([memory_bytes], [1.0])
    steps = WaySteps(WORKLOAD, cluster)
    found = steps.level(((0,),), dense_load(WORKLOAD))
    assert found is not None
    way = way_of(steps, found)
    assert way.fits
    assert way.dense_step_s == pytest.approx(found.step_s, rel=1e-9)
    recomputing = way.replicas[0].placement.recomputing
    possible = {}
    for recomputes in (False, True):
        passes = next(
            (
                n
                for n in range(1, 7)
                if PassMemory(WORKLOAD, recomputes).of(-(-6 // n), n > 1).total[0] <= memory_bytes
            ),
            None,
        )
        if passes is not None:
            sizes = [-(-6 // passes)] * (6 % passes or passes)
            sizes += [6 // passes] * (passes - len(sizes))
            seconds = pass_seconds(
                WORKLOAD, cluster.devices[0], sizes, recomputes=recomputes
            ).total_s.sum()
            possible[recomputes] = float(seconds)
    best = min(possible, key=lambda recomputes: possible[recomputes])
    if len(possible) == 1 or not np.isclose(possible[False], possible[True], rtol=1e-6):
        assert bool(recomputing) == best


@pytest.mark.parametrize(("part", "recomputing"), [(0.7, (0, 1)), (0.9, (0,)), (20.0, ())])
def test_of_devices_that_share_a_model_only_those_without_room_compute_again(
    part: float, recomputing: tuple[int, ...]
) -> None:
    """The first owns the samples, so that the second has more room."""
    cluster = cluster_of([part * needed(1, True)] * 2, [1.0, 1.0])
    steps = WaySteps(WORKLOAD, cluster)
    found = steps.level(((0, 1),), dense_load(WORKLOAD))
    assert found is not None
    way = way_of(steps, found)
    assert way.fits
    assert way.replicas[0].placement.recomputing == recomputing
    assert way.dense_step_s == pytest.approx(found.step_s, rel=0.02)


def test_the_step_is_longer_by_the_forward_pass_alone() -> None:
    cluster = cluster_of([1e9], [1.0])
    way = best_dense(search_ways(WORKLOAD, cluster))
    (replica,) = way.replicas
    again = type(replica)(
        type(replica.placement)(1, replica.placement.subnet_device, replica.placement.owner, (0,))
    )
    once_s, again_s = (
        simulate_dense(Deployment(way.workload, cluster, (one,))) for one in (replica, again)
    )
    assert once_s.step_s < again_s.step_s < 1.4 * once_s.step_s
    assert once_s.exchange_bytes == again_s.exchange_bytes


def test_devices_that_only_just_hold_a_model_share_it_well_at_the_first_look() -> None:
    cluster = load_cluster(Path(__file__).parents[3] / "examples/clusters/testbed_unequal.yaml")
    roomier = tuple(replace(d, memory_bytes=2_400_000_000) for d in cluster.devices)
    shape = load_model_shape("vit_large_patch16_224")
    workload = Workload(shape, partition_by_heads(shape, 1), (8,) * 4)
    runs = WaySteps(workload, replace(cluster, devices=roomier)).cut_runs((0, 1, 2))
    first_s = runs.layout(32).total_s
    runs.polish(32)
    assert first_s <= 1.1 * runs.layout(32).total_s
