"""Problems with setups made from replicas on a cluster."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import operation_seconds
from d2ft_sched.problem.formulate_setups import formulate_setups
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.solvers.setups.solve import solve_setups

SHAPE = vision_transformer_shape(
    "tiny", image_size=16, patch_size=8, width=16, num_blocks=4, num_heads=2, mlp_hidden=32,
    num_classes=2,
)  # fmt: skip
SAMPLES = (3, 3, 2, 2)
DEVICES = tuple(Device(f"d{i}", rate, 10**9, 1e10) for i, rate in enumerate((2e9, 1e9, 5e8)))
CLUSTER = Cluster("three", DEVICES, (Link("d0", "d1", 1e6, 0.0), Link("d1", "d2", 1e6, 0.0)))


def replicas() -> tuple[Replica, ...]:
    """The first device alone; the other two with half of the heads each."""
    num_subnets = SHAPE.num_blocks * SHAPE.num_heads
    halves = tuple(1 + s % 2 for s in range(num_subnets))
    return (
        Replica(Placement(3, (0,) * num_subnets, (0, 0))),
        Replica(Placement(3, halves, (1, 2))),
    )


def workload(lora: Lora | None = None) -> Workload:
    return Workload(SHAPE, partition_by_heads(SHAPE, 1), SAMPLES, lora=lora)


def scores(seed: int) -> Scores:
    forward, backward = np.random.default_rng(seed).gamma(2.0, size=(2, 8, len(SAMPLES)))
    return Scores(forward, backward)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    st.sampled_from([None, Lora(2, 2.0)]),
)
def test_what_setups_spend_is_what_the_gradient_sums_count(seed, compute, comm, lora):
    own = workload(lora)
    problem = formulate_setups(
        Deployment(own, CLUSTER, replicas()), scores(seed), Budget(compute, comm)
    )
    found = solve_setups(problem)
    assert found.schedule is not None
    mip = solve_setups(problem, solver="scip")
    assert found.objective == pytest.approx(mip.objective, rel=1e-5)
    block = own.partition.block
    trained = set(block[(found.schedule == Operation.FULL).any(axis=1)].tolist())
    assert len(trained) <= comm * SHAPE.num_blocks
    subnets_alone = {
        name: sum(len(one.heads) for one in gradient_sums(own, replicas(), schedule))
        for name, schedule in (
            ("plan", found.schedule),
            ("dense", uniform_schedule(8, len(SAMPLES), Operation.FULL)),
        )
    }
    heads = (found.schedule == Operation.FULL).any(axis=1).sum()
    assert subnets_alone == {"plan": heads, "dense": 8}
    spent = (problem.group_setup_cost @ problem.trains(found.schedule))[0]
    assert spent == pytest.approx(len(trained) / SHAPE.num_blocks * problem.setup_cost.sum())


def test_each_device_has_a_part_of_its_own_dense_seconds_in_every_block():
    own, budget = workload(), Budget(0.6, 0.5)
    problem = formulate_setups(Deployment(own, CLUSTER, replicas()), scores(0), budget).problem
    assert problem.num_knapsacks == 3 * SHAPE.num_blocks
    alone = Workload(SHAPE, own.partition, SAMPLES[:2])
    dense = operation_seconds(deploy(alone, CLUSTER, replicas()[0].placement))[..., Operation.FULL]
    expected = 0.6 * dense[own.partition.block == 0].sum()
    assert problem.capacity[problem.knapsack[0, 0], 0] == pytest.approx(expected)
    by_device = formulate_setups(
        Deployment(own, CLUSTER, replicas()), scores(0), Budget(0.6, 0.5, per_block=False)
    ).problem
    assert by_device.num_knapsacks == 3
    assert by_device.capacity.sum() == pytest.approx(problem.capacity.sum())


def test_rest_takes_less_than_full_and_more_than_forward_alone():
    problem = formulate_setups(
        Deployment(workload(), CLUSTER, replicas()), scores(0), Budget(0.6, 0.5)
    )
    cost = problem.cost[0]
    assert (cost[..., Operation.REST] > cost[..., Operation.FORWARD_ONLY]).all()
    assert (cost[..., Operation.REST] < cost[..., Operation.FULL]).all()


def test_one_replica_has_no_sums_to_leave_out():
    with pytest.raises(InputError, match="needs at least 2 replicas"):
        formulate_setups(deploy(workload(), CLUSTER), scores(0), Budget(0.6, 0.5))
