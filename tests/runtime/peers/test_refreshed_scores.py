"""Scores that change during training, and schedules that follow them."""

import numpy as np
import pytest
import torch

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.running_scores import nothing_seen
from d2ft_sched.problem.scores import Scores, uniform_scores
from runtime.data.dataset import Dataset, Split
from runtime.peers.followed_schedules import FollowedSchedules
from runtime.peers.refreshed_scores import RefreshedScores
from runtime.peers.training import common_start, score_start
from runtime.scoring.training_scores import training_scores
from runtime.training.schedule_source import SolvedSchedules


def test_running_averages_by_hand():
    running = nothing_seen(np.array([1.0, 2.0, 3.0]), 2, 2, seed=0)
    np.testing.assert_array_equal(running.of(0).forward, [[1, 1], [2, 2], [3, 3]])
    first = running.of(1).backward
    assert (first == first[0]).all()
    assert len(np.unique(first[0])) == 2
    seen = np.array([[2.0, 4.0], [np.nan, 6.0], [np.nan, np.nan]])
    before, running = running, running.after(0, seen, decay=0.5)
    np.testing.assert_array_equal(before.of(1).backward, first)
    averages = np.array([3.0, 6.0, 4.5])
    factors = np.array([2 / 3, (4 / 3 + 1) / 2])
    np.testing.assert_allclose(
        running.of(0).backward, averages[:, None] * factors[None], rtol=1e-12
    )
    seen = np.array([[5.0, np.nan], [np.nan, np.nan], [np.nan, np.nan]])
    running = running.after(1, seen, decay=0.5)
    averages[:] = 4.0, 6.0, 5.0
    np.testing.assert_allclose(
        running.of(0).backward, averages[:, None] * factors[None], rtol=1e-12
    )
    np.testing.assert_allclose(running.of(1).backward[:, 0], averages * 5 / 4)


def test_a_subnet_whose_gradients_vanish_does_not_break_the_averages():
    running = nothing_seen(np.ones(2), 1, 2, seed=0).after(0, np.array([[0, 0], [1.0, np.nan]]))
    assert np.isfinite(running.of(0).backward).all()


def test_refreshed_scores_pass_over_what_comes_with_the_model_of_that_step():
    passes = []

    def score(model, minibatches):
        passes.append((model, list(minibatches)))
        return [Scores(np.ones((1, 1)), np.full((1, 1), 10.0 * model + j)) for j in minibatches]

    shape = vision_transformer_shape(
        "m", image_size=28, patch_size=14, width=8, num_blocks=1, num_heads=1, mlp_hidden=8,
        num_classes=5,
    )  # fmt: skip
    alone = deploy(
        Workload(shape, partition_by_heads(shape, 1), (2,)),
        Cluster("one", (Device("d", 1e10, 2**33, 1e12),)),
    )
    order = [2, 0, 1, 1, 2]
    source = RefreshedScores(order, score)
    formulation = formulate(alone, uniform_scores(1, 1), Budget())
    values = []
    solved = SolvedSchedules(
        formulation, source, value_of=lambda s: values.append(s) or s.values(), at_once=3
    )
    followed = FollowedSchedules(solved, refreshed=source)
    for step, j in enumerate(order):
        followed.begin(step)  # a model is a number here
        followed(step, j)
    assert passes == [(0, [0, 1, 2]), (3, [1, 2])]
    assert [s.backward[0, 0] for s in values] == [2, 0, 1, 31, 32]
    assert source.minibatches_scored == 5
    assert followed.minibatches_scored == [3, 0, 0, 2, 0]
    assert not followed.watches


@pytest.fixture
def start(small_vit, workload_of):
    model = small_vit(torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (24, 3, 28, 28), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(24) % 5)
    data = Dataset("made", split, split, tuple("abcde"))
    return common_start(
        model, data, workload_of(model, 2), 0, torch.device("cpu"), linear_probe=False
    )


def test_scores_are_taken_once_and_chosen_mini_batches_are_theirs(start):
    scored = score_start(start, "weight_magnitude", "fisher")
    assert score_start(start, "weight_magnitude", "fisher") is scored
    assert len(scored.scores) == 3
    chosen = training_scores(
        start.model, start.data, start.workload, 0, start.device,
        chosen=[2, 0], forward_score="weight_magnitude", backward_score="fisher",
    )  # fmt: skip
    for got, wanted in zip(chosen, [scored.scores[2], scored.scores[0]], strict=True):
        np.testing.assert_allclose(got.backward, wanted.backward, rtol=1e-6)
