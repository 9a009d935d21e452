"""Solvers side by side, beside dense on fewer samples."""

from pathlib import Path

import numpy as np
import pytest

from analysis.comparing.comparison import (
    FEWER,
    best_answer,
    compare_solvers,
    comparison_table,
    value_of_samples,
)
from analysis.planning.request import Request
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from sim.ways.fewer import fewer_samples

SHAPE = load_model_shape("vit_tiny_patch16_224", image_size=32, num_classes=10)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4, 4, 4, 2))
CLUSTER = load_cluster(Path(__file__).parents[3] / "examples/clusters/unequal_cpus.yaml")
PLACEMENT = place_round_robin(WORKLOAD.partition, 5, len(CLUSTER.devices))


def scores(seed: int = 0) -> Scores:
    forward, backward = np.random.default_rng(seed).random((2, WORKLOAD.num_subnets, 5))
    return Scores(forward, backward)


def test_the_table_has_every_solver_and_fewer_samples_of_the_best_ones_compute() -> None:
    request = Request(WORKLOAD, CLUSTER, scores(), Budget(0.7, 1.0))
    names = ["two_stage", "dp", "top_k", "frozen_prefix", "fewer_microbatches"]
    answers = compare_solvers(
        deploy(request.workload, request.cluster, PLACEMENT), request.scores, request.budget, names
    )
    table = comparison_table(request, answers).set_index("solver")
    assert table.index.tolist() == [*names, FEWER]
    assert best_answer(answers) == "dp"
    assert (table["objective"][names] <= table["upper_bound"].min() * (1 + 1e-9)).all()
    number = int(table["compute_fraction"]["dp"] * 18)
    assert table["compute_fraction"][FEWER] == number / 18
    own = fewer_samples(WORKLOAD, CLUSTER, number / 18)
    assert table["predicted_step_s"][FEWER] == pytest.approx(own.dense_step_s, rel=1e-12)


@pytest.mark.parametrize("number", range(1, 19))
def test_fewer_samples_are_worth_the_best_of_them(number: int) -> None:
    request = Request(WORKLOAD, CLUSTER, scores(), Budget())
    value = scores().values()[..., Operation.FULL].sum(axis=0)
    samples = np.array(WORKLOAD.microbatch_samples)
    each = np.sort(np.repeat(value / samples, samples))[::-1]
    assert value_of_samples(request, number) == pytest.approx(each[:number].sum())


def test_a_solver_that_needs_more_than_a_plan_has_says_so() -> None:
    request = Request(WORKLOAD, CLUSTER, scores(), Budget(0.7, 1.0))
    with pytest.raises(InputError, match="'magnitude' needs the option 'magnitude'"):
        compare_solvers(
            deploy(request.workload, request.cluster, PLACEMENT),
            request.scores,
            request.budget,
            ["magnitude"],
        )
