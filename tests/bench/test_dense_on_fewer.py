"""Dense on fewer micro-batches at equal step time, of a plan's own placement."""

from pathlib import Path

import numpy as np
import pytest

from bench.unequal.dense_on_fewer import fewer_microbatches
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from sim.step import simulate_step

SHAPE = load_model_shape("vit_tiny_patch16_224", image_size=32, num_classes=10)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4, 4, 4, 2))
CLUSTER = load_cluster(Path(__file__).parents[2] / "examples/clusters/unequal_cpus.yaml")
PLACEMENT = place_round_robin(WORKLOAD.partition, 5, len(CLUSTER.devices))


def scores() -> Scores:
    forward, backward = np.random.default_rng(0).random((2, WORKLOAD.num_subnets, 5))
    return Scores(forward, backward)


def kept_step_s(kept: list[int]) -> float:
    """Of the dense step on these micro-batches, everything else not run."""
    samples = tuple(WORKLOAD.microbatch_samples[i] for i in kept)
    fewer = Workload(SHAPE, WORKLOAD.partition, samples)
    owner = tuple(PLACEMENT.owner[i] for i in kept)
    placement = type(PLACEMENT)(PLACEMENT.num_devices, PLACEMENT.subnet_device, owner)
    dense = np.full((WORKLOAD.num_subnets, len(kept)), Operation.FULL)
    return simulate_step(deploy(fewer, CLUSTER, placement), dense).step_s


def test_fewer_microbatches_are_the_best_ones_that_fit_the_step_trunk_left_out() -> None:
    value = scores().values()[..., Operation.FULL].sum(axis=0)
    best = np.argsort(-value)
    three = sorted(best[:3].tolist())
    found = fewer_microbatches(deploy(WORKLOAD, CLUSTER, PLACEMENT), scores(), kept_step_s(three))
    assert found is not None
    assert found.kept.tolist() == three
    assert found.prediction.step_s == pytest.approx(kept_step_s(three))
    assert found.retained_score == pytest.approx(value[three].sum() / value.sum())
    assert fewer_microbatches(deploy(WORKLOAD, CLUSTER, PLACEMENT), scores(), 1e-6) is None
