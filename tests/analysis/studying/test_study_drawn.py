"""Methods that draw anew what runs and what trains: the schedules of finetune, prices of ways."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.studying.study_costs import StepCosts, described, gradient_values
from analysis.studying.study_drawn import drawn_recipe, ways_of
from analysis.studying.study_file import MethodSchema, load_study
from analysis.studying.study_grid import planned_runs
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.costs.parameters import trained_trunk_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from runtime.data.dataset import Dataset, Split
from runtime.models.build import build_model, shape_of
from runtime.peers.training import Start, train_peer, with_larger_minibatches
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.schedule_source import RedrawnSchedules
from sim.ways.fewer import fewer_samples
from sim.ways.search import best_dense

CLUSTER = Path(__file__).parents[3] / "examples" / "clusters" / "gigabit_cpus.yaml"
NUM_EPOCHS = 3


@pytest.fixture(scope="module")
def start():
    model = build_model("test_vit", image_size=32, num_classes=2, seed=0)
    split = Split(torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.zeros(40, dtype=torch.long))
    shape = shape_of(model)
    workload = Workload(shape, partition_by_heads(shape, 1), (2,) * 5)
    return Start(model, Dataset("made", split, split, ("a", "b")), workload, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def cluster():
    return load_cluster(CLUSTER)


def recipe_of(start, cluster, **fields):
    method = MethodSchema(name="m", kind="drawn", **fields)
    larger = with_larger_minibatches(start, method.accumulate)
    return drawn_recipe(method, cluster, larger, NUM_EPOCHS), larger.workload


@pytest.mark.parametrize("unit", ["block", "subnet"])
@pytest.mark.parametrize("policy", ["drawn", "turns"])
def test_steps_are_those_that_finetune_follows(start, cluster, unit, policy):
    recipe, workload = recipe_of(start, cluster, samples=0.6, trains=0.5, unit=unit, policy=policy)
    block = workload.partition.block
    units = block if unit == "block" else np.arange(len(block))
    follows = RedrawnSchedules(recipe.schedules[0], units, policy, start.seed)
    assert len(recipe.schedules) == NUM_EPOCHS * start.num_minibatches
    for step, schedule in enumerate(recipe.schedules):
        assert (schedule == follows(step, 0)).all()
        runs = (schedule != Operation.SHORTCUT).any(axis=0)
        assert workload.samples[runs].sum() == 6
        trained = {u for u, row in zip(units, schedule, strict=True) if Operation.FULL in row}
        assert len(trained) == (units.max() + 1) // 2
    assert len(np.unique(recipe.schedules, axis=0)) > 1


def test_every_method_is_priced_on_its_own_best_way(start, cluster):
    dense, workload = recipe_of(start, cluster)
    search = ways_of(workload, cluster)
    costs = StepCosts(dense, workload, workload)
    assert costs.dense().step_s == best_dense(search).dense_step_s
    assert costs.of(dense.schedules[0]).step_s == pytest.approx(costs.dense().step_s)
    fewer, _ = recipe_of(start, cluster, samples=0.6)
    priced = StepCosts(fewer, workload, workload).of(fewer.schedules[0])
    assert priced.step_s == pytest.approx(fewer_samples(workload, cluster, 0.6).dense_step_s)
    assert priced.flops == pytest.approx(0.6 * costs.dense().flops)
    names = {device.name for device in cluster.devices}
    assert {part.split(":")[0] for part in described(fewer.way, cluster).split(", ")} <= names


def test_gradients_that_are_sent_are_the_trunk_and_what_trains(start, cluster):
    dense, workload = recipe_of(start, cluster)
    half, _ = recipe_of(start, cluster, trains=0.5)
    trunk = trained_trunk_parameters(workload)
    every = gradient_values(workload, dense.schedules[0])
    assert every == workload.shape.num_parameters
    assert gradient_values(workload, half.schedules[0]) == trunk + (every - trunk) / 2


def test_accumulated_minibatches_are_fewer_and_larger(start, cluster):
    recipe, workload = recipe_of(start, cluster, accumulate=2)
    assert workload.samples.sum() == 20
    assert len(recipe.schedules) == NUM_EPOCHS * start.num_minibatches // 2


@pytest.mark.parametrize("file", ["rest.yaml", "rest_cifar100.yaml"])
def test_only_steps_that_leave_nothing_out_are_called_dense(file):
    path = CLUSTER.parents[1] / "studies" / file
    budgets = {r.method.name: r.budget_name for r in planned_runs(load_study(path), path.parent)}
    assert {name for name, budget in budgets.items() if budget == "dense"} <= {
        "full fine-tuning",
        "LoRA",
    }
    assert budgets["full fine-tuning"] == "dense"
    assert budgets["a quarter trains"] == "its own"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0.5}, "samples is 0.5, which are 2.5 of 5 micro-batches"),
        ({"trains": 0.01}, "trains is 0.01 of .* blocks; it must be at least one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(start, cluster, fields, message):
    with pytest.raises(InputError, match=message):
        recipe_of(start, cluster, **fields)


def test_rest_by_scores_follows_what_the_training_sees(start, cluster):
    recipe, workload = recipe_of(start, cluster, samples=0.6, trains=0.5, policy="scores")
    settings = FineTuneSettings(num_epochs=1, seed=0)
    list(train_peer(start, recipe.policy, settings))
    assert recipe.policy.watches
    followed = np.array(recipe.policy.schedules)
    assert len(followed) == start.num_minibatches
    for schedule in followed:
        runs = (schedule != Operation.SHORTCUT).any(axis=0)
        assert runs.sum() == 3
        trains = (schedule[:, runs] == Operation.FULL).all(axis=1)
        blocks = workload.partition.block
        assert len(set(blocks[trains])) == workload.shape.num_blocks // 2
        assert (schedule[:, runs][~trains] == Operation.REST).all()
