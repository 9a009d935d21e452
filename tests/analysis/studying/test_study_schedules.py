"""Options of the kind ``schedule``: what budgets and values become."""

from pathlib import Path

import numpy as np
import pytest

from analysis.studying.study_file import MethodSchema
from analysis.studying.study_schedules import (
    PHASES,
    formulation_of,
    prepared,
    random_scores,
    values_of,
)
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.solvers.registry import solve

EQUAL = Path(__file__).parents[3] / "examples" / "studies" / "cluster_equal.yaml"


@pytest.fixture
def workload() -> Workload:
    shape = ModelShape(
        name="made", num_blocks=3, num_heads=6, head_dim=8, width=48, mlp_hidden=96, num_tokens=5,
        embed_flops=0, classifier_flops=0,
    )  # fmt: skip
    return Workload(shape, partition_by_heads(shape, 1), (2,) * 10)


def full_shares(method, workload, budget, phase):
    """Share of FULL in each block."""
    cluster = load_cluster(EQUAL)
    placement = place_round_robin(workload.partition, 10, len(cluster.devices))
    scores = uniform_scores(workload.num_subnets, 10)
    formulation = formulation_of(
        method, budget, deploy(workload, cluster, placement), scores, phase
    )
    schedule = formulation.schedule(solve(formulation.problem).schedule)
    return (schedule == Operation.FULL).reshape(3, -1).mean(axis=1)


@pytest.mark.parametrize(
    ("slope", "growth", "phase", "wanted"),
    [
        (0.0, 0.0, 0, [0.6, 0.6, 0.6]),
        (0.5, 0.0, 0, [0.3, 0.6, 0.9]),
        (-0.5, 0.0, 0, [0.9, 0.6, 0.3]),
        (0.0, 0.5, 0, [0.3, 0.3, 0.3]),
        (0.0, 0.5, PHASES - 1, [0.9, 0.9, 0.9]),
        (0.25, 1 / 3, 0, [0.3, 0.4, 0.5]),
    ],
)
def test_budgets_bend_over_blocks_and_phases(workload, slope, growth, phase, wanted):
    method = MethodSchema(name="m", kind="schedule", block_slope=slope, growth=growth)
    got = full_shares(method, workload, Budget(compute=0.6 + 1e-9), phase)
    assert got == pytest.approx(wanted)


def test_budgets_that_bend_too_far_are_refused(workload):
    method = MethodSchema(name="steep", kind="schedule", block_slope=0.7)
    with pytest.raises(InputError, match=r"'steep': its compute budget would be 1.02"):
        full_shares(method, workload, Budget(compute=0.6), 0)


def test_aligned_and_normalised_scores_by_hand(workload):
    rng = np.random.default_rng(0)
    table = rng.uniform(1, 2, (workload.num_subnets, 10))
    table[:6] *= 100
    scores = Scores(np.ones_like(table), table)
    by_block = MethodSchema(name="m", kind="schedule", normalize="block")
    got = prepared(scores, by_block, workload).backward.reshape(3, -1)
    wanted = [block / block.mean() for block in table.reshape(3, -1)]
    np.testing.assert_allclose(got, wanted)
    aligned = prepared(scores, MethodSchema(name="m", kind="schedule", aligned=True), workload)
    np.testing.assert_allclose(aligned.backward, np.tile(table.mean(axis=0), (18, 1)))


def test_without_shortcuts_nothing_is_skipped(workload):
    method = MethodSchema(name="m", kind="schedule", dropped="forward_only")
    values = values_of(uniform_scores(workload.num_subnets, 10), method)
    assert (values[..., Operation.SHORTCUT] < -1e5).all()
    assert (values.argmin(axis=-1) == Operation.SHORTCUT).all()


def test_random_scores_differ_from_step_to_step_and_follow_the_seed(workload):
    first, second = (s.backward for s in random_scores(workload, 2, seed=0))
    assert not np.array_equal(first, second)
    assert np.array_equal(random_scores(workload, 1, seed=0)[0].backward, first)
    assert not np.array_equal(random_scores(workload, 1, seed=1)[0].backward, first)
