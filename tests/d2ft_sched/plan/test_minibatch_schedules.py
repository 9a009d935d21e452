"""Many mini-batches in one solve are what each would be by itself."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.minibatch_schedules import solve_minibatches
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import Scores, drawn_scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.solvers.registry import solve

RATES = (1e12, 1e12, 0.4e12)


@pytest.fixture
def workload() -> Workload:
    shape = vision_transformer_shape(
        "small", image_size=56, patch_size=14, width=192, num_blocks=3, num_heads=6,
        mlp_hidden=768, num_classes=10,
    )  # fmt: skip
    return Workload(shape, partition_by_heads(shape, 1), (8,) * 5)


@pytest.fixture
def cluster() -> Cluster:
    devices = tuple(
        Device(f"d{i}", rate, 2**34, rate / 10, launch_s=1e-6) for i, rate in enumerate(RATES)
    )
    links = tuple(Link(d.name, "switch", 1e10, 1e-6) for d in devices)
    return Cluster("three", devices, links, ("switch",), "star")


@pytest.mark.parametrize("patterns", [None, 1, 2])
@pytest.mark.parametrize("solver", ["dp", "two_stage", "greedy", "random", "top_k"])
def test_each_mini_batch_gets_the_schedule_of_its_own_problem(
    workload: Workload, cluster: Cluster, solver: str, patterns: int | None
) -> None:
    placement = place_round_robin(workload.partition, 5, 3)
    size = (workload.num_subnets, 5)
    budget = Budget(compute=0.55, patterns=patterns)
    formulation = formulate(deploy(workload, cluster, placement), uniform_scores(*size), budget)
    rng = np.random.default_rng(0)
    scores = [Scores(rng.gamma(2.0, size=size), rng.gamma(2.0, size=size)) for _ in range(4)]
    found = solve_minibatches(formulation, [s.values() for s in scores], solver, seed=3)
    assert found.operations.shape == (4, *size)
    for j, own in enumerate(scores):
        problem = formulate(deploy(workload, cluster, placement), own, budget).problem
        options = {"block": formulation.row_block} if solver == "top_k" else {}
        alone = solve(problem, solver, seed=3 + j, **options)
        assert alone.schedule is not None
        rows = np.array(
            [found.operations[j][formulation.row == r][0] for r in range(problem.num_subnets)]
        )
        assert problem.violation(rows) is None
        assert problem.objective(rows) == pytest.approx(alone.objective, rel=1e-9)
        assert (found.operations[j] == rows[formulation.row]).all()


def test_capacities_are_those_of_the_formulation_not_of_the_values(
    workload: Workload, cluster: Cluster
) -> None:
    placement = place_round_robin(workload.partition, 5, 3)
    size = (workload.num_subnets, 5)
    formulation = formulate(
        deploy(workload, cluster, placement), uniform_scores(*size), Budget(0.5)
    )
    tight = replace(
        formulation,
        problem=replace(formulation.problem, capacity=np.zeros_like(formulation.problem.capacity)),
    )
    values = [uniform_scores(*size).values()] * 2
    assert (solve_minibatches(formulation, values).operations > 0).any()
    assert (solve_minibatches(tight, values).operations == 0).all()


def test_drawn_scores_let_all_subnets_drop_the_same_samples_others_in_each_step(
    workload: Workload, cluster: Cluster
) -> None:
    placement = place_round_robin(workload.partition, 5, 3)
    size = (workload.num_subnets, 5)
    budget = Budget(0.6)
    formulation = formulate(deploy(workload, cluster, placement), uniform_scores(*size), budget)
    steps = [drawn_scores(*size, seed=4, step=step).values() for step in range(200)]
    runs = solve_minibatches(formulation, steps).operations == Operation.FULL
    order = np.argsort([-value[0, :, Operation.FULL] for value in steps], axis=1)
    in_order = np.take_along_axis(runs, order[:, None], axis=2)
    least = in_order.sum(axis=2).min()  # a device with few subnets may keep more samples
    assert least > 0
    assert in_order[:, :, :least].all()
    share = runs.mean(axis=(0, 1))
    assert share == pytest.approx(np.full(5, share.mean()), abs=0.1)
    again = drawn_scores(*size, seed=4, step=7).values()
    assert (again == steps[7]).all()
    assert (drawn_scores(*size, seed=5, step=7).values() != steps[7]).any()


def test_what_is_missing_is_said(workload: Workload, cluster: Cluster) -> None:
    placement = place_round_robin(workload.partition, 5, 3)
    scores = uniform_scores(workload.num_subnets, 5)
    formulation = formulate(deploy(workload, cluster, placement), scores, Budget(compute=0.5))
    with pytest.raises(InputError, match="needs the option 'magnitude'"):
        solve_minibatches(formulation, [scores.values()], "magnitude")
    with pytest.raises(ValueError, match="at least one mini-batch"):
        solve_minibatches(formulation, [])
