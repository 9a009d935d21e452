"""The problem that a budget becomes, and the plans that come of it."""

import numpy as np
import pytest

from d2ft_sched.capacity import Budget
from d2ft_sched.cluster import Cluster, Link
from d2ft_sched.device import Device
from d2ft_sched.errors import InputError
from d2ft_sched.formulate import RESOURCES, formulate, operation_seconds
from d2ft_sched.memory import device_memory
from d2ft_sched.model_shape import ModelShape
from d2ft_sched.operations import Operation
from d2ft_sched.partition import partition_by_heads
from d2ft_sched.placement import place_round_robin
from d2ft_sched.planning import make_plan
from d2ft_sched.scores import Scores, uniform_scores
from d2ft_sched.workload import Workload

SHAPE = ModelShape("m", 3, 6, 8, 48, 96, 5, trunk_parameters=1000)
PARTITION = partition_by_heads(SHAPE, 1)
WORKLOAD = Workload(SHAPE, PARTITION, (4,) * 5)
COMPUTE = RESOURCES.index("compute_s")


def switch_of(speeds, memory_bytes=10**9):
    devices = tuple(Device(f"d{i}", 1e9 * v, memory_bytes, 1e18) for i, v in enumerate(speeds))
    links = tuple(Link(d.name, "switch", 1e8, 0.0) for d in devices)
    return Cluster("c", devices, links, ("switch",))


def scores(seed=0):
    rng = np.random.default_rng(seed)
    return Scores(rng.random((len(PARTITION), 5)), rng.random((len(PARTITION), 5)))


def formulated(cluster, budget):
    placement = place_round_robin(PARTITION, 5, len(cluster.devices))
    return formulate(WORKLOAD, cluster, placement, scores(), budget)


def test_the_sum_over_a_dense_block_is_its_time():
    cluster = switch_of([1, 0.5])
    placement = place_round_robin(PARTITION, 5, 2)
    seconds = operation_seconds(WORKLOAD, cluster, placement)
    from sim.step import simulate_step

    dense = np.full((len(PARTITION), 5), Operation.FULL, dtype=np.int8)
    prediction = simulate_step(WORKLOAD, cluster, placement, dense)
    lanes = sum(p.device_s for p in prediction.phases if p.name.endswith("lanes"))
    device = np.array(placement.subnet_device)
    for d in (0, 1):
        total = seconds[device == d][..., Operation.FULL].sum()
        assert total == pytest.approx(lanes[d], rel=1e-9)


@pytest.mark.parametrize("per_block", [True, False])
def test_equal_devices_share_the_budget_equally(per_block):
    formulation = formulated(switch_of([1] * 6), Budget(compute=0.6, per_block=per_block))
    np.testing.assert_allclose(
        formulation.problem.capacity[:, COMPUTE], 0.6 * formulation.dense[:, COMPUTE]
    )
    assert formulation.problem.num_knapsacks == (18 if per_block else 6)


def test_a_slow_device_is_cut_and_the_others_keep_all():
    fraction = (5 + 0.4) / 6
    cluster = switch_of([1] * 5 + [0.4])
    plan = make_plan(WORKLOAD, cluster, uniform_scores(18, 5), Budget(compute=fraction))
    device = np.array(plan.placement.subnet_device)
    assert (plan.schedule[device < 5] == Operation.FULL).all()
    assert ((plan.schedule[device == 5] == Operation.FULL).sum(axis=1) == 2).all()


def test_sixty_percent_of_five_micro_batches_is_three_full_each():
    plan = make_plan(WORKLOAD, switch_of([1] * 6), uniform_scores(18, 5), Budget(compute=0.6))
    assert ((plan.schedule == Operation.FULL).sum(axis=1) == 3).all()


def test_memory_that_cannot_hold_the_model_is_refused():
    with pytest.raises(InputError, match=r"device 'd0' has .* of memory"):
        make_plan(WORKLOAD, switch_of([1, 1], memory_bytes=100_000), scores(), Budget())


def test_little_memory_binds_activations():
    cluster = switch_of([1] * 6)
    formulation = formulated(cluster, Budget())
    assert np.isinf(formulation.problem.capacity).all()
    placement = place_round_robin(PARTITION, 5, 6)
    skipped = np.full((18, 5), Operation.SHORTCUT, dtype=np.int8)
    fixed_bytes = device_memory(WORKLOAD, placement, skipped).total.max()
    memory = RESOURCES.index("activation_bytes")
    kept_bytes = formulation.dense[:3, memory].sum()
    tight = switch_of([1] * 6, memory_bytes=int(fixed_bytes + kept_bytes / 2))
    limited = formulated(tight, Budget())
    capacity, dense = limited.problem.capacity[:, memory], limited.dense[:, memory]
    owners = np.isin(limited.knapsack_device, placement.owners)
    assert (capacity[owners] < dense[owners]).all()


def test_scores_of_another_size_are_refused():
    placement = place_round_robin(PARTITION, 5, 1)
    with pytest.raises(InputError, match=r"scores have shape \[2, 5\]"):
        formulate(WORKLOAD, switch_of([1]), placement, uniform_scores(2, 5), Budget())
