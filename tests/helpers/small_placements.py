"""A model of two blocks, switches of a few devices, and the best placement by trying them all."""

import itertools

import numpy as np
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_step import DenseStep

SHAPE = ModelShape(
    "m",
    num_blocks=2,
    num_heads=4,
    head_dim=8,
    width=32,
    mlp_hidden=64,
    num_tokens=5,
    embed_flops=1000,
    classifier_flops=640,
    trunk_parameters=4321,
)


def workload_of(heads=1, samples=(4, 4, 4), shape=SHAPE):
    return Workload(shape, partition_by_heads(shape, heads), tuple(samples))


def switch_of(speeds, bandwidths, memory_bytes=10**9, latency_s=1e-5, launch_s=0.0):
    devices = tuple(
        Device(f"d{i}", 1e9 * v, memory_bytes, 1e10 * v, launch_s=launch_s)
        for i, v in enumerate(speeds)
    )
    links = tuple(
        Link(d.name, "switch", b, latency_s) for d, b in zip(devices, bandwidths, strict=True)
    )
    return Cluster("c", devices, links, ("switch",))


@st.composite
def clusters(draw, most=4):
    num = draw(st.integers(1, most))
    speeds = draw(st.lists(st.floats(0.1, 10), min_size=num, max_size=num))
    bandwidths = draw(st.lists(st.floats(1e6, 1e11), min_size=num, max_size=num))
    return switch_of(speeds, bandwidths, launch_s=draw(st.sampled_from([0.0, 1e-5])))


def best_of_all(workload, cluster, *, every_device=False):
    """Brute force over placements that are alike in all (equal) blocks."""
    num = len(cluster.devices)
    step = DenseStep(workload, cluster, tuple(range(num)))
    _, size = step.sizes
    members = workload.partition.of_block(0)
    best = np.inf
    for devices in itertools.product(range(num), repeat=len(members)):
        if every_device and len(set(devices)) < num:
            continue
        held = np.zeros((num, len(step.sizes[0])), dtype=np.int64)
        np.add.at(held, (np.array(devices), size[list(members)]), 1)
        counts = np.broadcast_to(held, (SHAPE.num_blocks, *held.shape))
        for owner in itertools.product(range(num), repeat=workload.num_microbatches):
            best = min(best, step.seconds(counts, owner))
    return best
