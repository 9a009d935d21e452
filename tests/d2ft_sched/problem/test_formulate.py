"""The problem that a budget becomes, and the plans that come of it."""

from dataclasses import replace

import numpy as np
import pytest

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.memory import device_memory, memory_besides_operations
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.problem.formulate import RESOURCES, formulate, operation_seconds
from d2ft_sched.problem.scores import Scores, uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.replica import Replica

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
    return formulate(deploy(WORKLOAD, cluster, placement), scores(), budget)


def test_the_sum_over_a_dense_block_is_its_time():
    cluster = switch_of([1, 0.5])
    placement = place_round_robin(PARTITION, 5, 2)
    seconds = operation_seconds(deploy(WORKLOAD, cluster, placement))
    from sim.step import simulate_step

    dense = np.full((len(PARTITION), 5), Operation.FULL, dtype=np.int8)
    prediction = simulate_step(deploy(WORKLOAD, cluster, placement), dense)
    lanes = sum(p.device_s for p in prediction.phases if p.name.endswith("lanes"))
    device = np.array(placement.subnet_device)
    for d in (0, 1):
        total = seconds[device == d][..., Operation.FULL].sum()
        assert total == pytest.approx(lanes[d], rel=1e-9)


def test_subnets_without_hidden_units_or_heads_cost_what_they_have():
    shape = ModelShape("m", 1, 2, 8, 16, 8, 5)
    partition = Partition((Subnet(0, (0, 1), 0, 0), Subnet(0, (), 0, 8)), 1, 2, 8)
    workload = Workload(shape, partition, (2, 2))
    apart = operation_seconds(
        deploy(workload, switch_of([1, 1]), place_round_robin(partition, 2, 2))
    )
    together = operation_seconds(
        deploy(workload, switch_of([1]), place_round_robin(partition, 2, 1))
    )
    np.testing.assert_allclose(apart, together, rtol=1e-12)


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
    plan = make_plan(deploy(WORKLOAD, cluster), uniform_scores(18, 5), Budget(compute=fraction))
    device = np.array(plan.placement.subnet_device)
    assert (plan.schedule[device < 5] == Operation.FULL).all()
    assert ((plan.schedule[device == 5] == Operation.FULL).sum(axis=1) == 2).all()


def test_sixty_percent_of_five_micro_batches_is_three_full_each():
    plan = make_plan(
        deploy(WORKLOAD, switch_of([1] * 6)), uniform_scores(18, 5), Budget(compute=0.6)
    )
    assert ((plan.schedule == Operation.FULL).sum(axis=1) == 3).all()


def test_memory_that_cannot_hold_the_model_is_refused():
    with pytest.raises(InputError, match=r"device 'd0' has .* of memory"):
        make_plan(deploy(WORKLOAD, switch_of([1, 1], memory_bytes=100_000)), scores(), Budget())


def test_a_memory_budget_is_a_fraction_of_what_every_knapsack_keeps():
    memory = RESOURCES.index("activation_bytes")
    formulation = formulated(switch_of([1, 0.3]), Budget(memory=0.4))
    kept = formulation.dense[:, memory]
    np.testing.assert_allclose(formulation.problem.capacity[:, memory], 0.4 * kept)
    assert np.isinf(formulated(switch_of([1, 0.3]), Budget()).problem.capacity[:, memory]).all()
    plan = make_plan(deploy(WORKLOAD, switch_of([1, 0.3])), scores(), Budget(memory=0.4))
    assert (plan.schedule == Operation.FULL).mean() == pytest.approx(0.4)


@pytest.mark.parametrize("num_waves", [1, 3])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.7, 1.0])
def test_every_plan_fits_little_memory(kept, num_waves):
    placement = place_round_robin(PARTITION, 5, 6)
    dense = np.full((18, 5), Operation.FULL, dtype=np.int8)
    needed = device_memory(WORKLOAD, Replica(placement, num_waves), dense).total
    least = memory_besides_operations(WORKLOAD, Replica(placement, num_waves))
    memory = np.ceil(least + kept * (needed - least)).astype(int)
    devices = [
        replace(device, memory_bytes=int(m))
        for device, m in zip(switch_of([1] * 6).devices, memory, strict=True)
    ]
    cluster = replace(switch_of([1] * 6), devices=tuple(devices))
    plan = make_plan(deploy(WORKLOAD, cluster, placement, num_waves), scores(), Budget())
    assert (
        device_memory(WORKLOAD, Replica(placement, num_waves), plan.schedule).total <= memory
    ).all()
    assert (plan.schedule == Operation.FULL).all() == (kept == 1)
    small = replace(cluster, devices=(replace(devices[0], memory_bytes=1000), *devices[1:]))
    with pytest.raises(InputError, match="'d0' has 1e-06 GB of memory"):
        formulate(deploy(WORKLOAD, small, placement, num_waves), scores(), Budget())


def test_scores_of_another_size_are_refused():
    placement = place_round_robin(PARTITION, 5, 1)
    with pytest.raises(InputError, match=r"scores have shape \[2, 5\]"):
        formulate(deploy(WORKLOAD, switch_of([1]), placement), uniform_scores(2, 5), Budget())


def two_each():
    """A cluster of three devices with two subnets of every block each."""
    cluster = switch_of([1, 1, 1])
    return cluster, place_round_robin(PARTITION, 5, 3)


@pytest.mark.parametrize("patterns", [1, 2, None])
def test_the_sum_over_a_dense_block_is_what_it_exchanges(patterns):
    cluster, placement = two_each()
    formulation = formulate(
        deploy(WORKLOAD, cluster, placement), scores(), Budget(patterns=patterns)
    )
    exchange = plan_exchange(WORKLOAD, placement, np.full((18, 5), Operation.FULL, dtype=np.int8))
    total = formulation.dense[:, RESOURCES.index("communication_bytes")].sum()
    assert total == pytest.approx(exchange.total_bytes())


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_an_aligned_plan_keeps_its_communication_budget(fraction):
    cluster, placement = two_each()
    budget = Budget(communication=fraction, patterns=1)
    plan = make_plan(deploy(WORKLOAD, cluster, placement), scores(), budget)
    dense = plan_exchange(WORKLOAD, placement, np.full((18, 5), Operation.FULL, dtype=np.int8))
    exchanged = plan_exchange(WORKLOAD, placement, plan.schedule).total_bytes()
    assert exchanged <= fraction * dense.total_bytes() * (1 + 1e-9)
    device = np.array(placement.subnet_device)
    for block in range(3):
        rows = plan.schedule[list(PARTITION.of_block(block))]
        held = device[list(PARTITION.of_block(block))]
        assert all((rows[held == d] == rows[held == d][0]).all() for d in range(3))
    free = make_plan(deploy(WORKLOAD, cluster, placement), scores(), Budget())
    assert plan.solver.objective < free.solver.objective


def test_levels_are_seconds_of_every_block():
    cluster = switch_of([1, 1, 1, 1, 1, 0.4])
    placement = place_round_robin(PARTITION, 5, 6)
    dense = formulate(deploy(WORKLOAD, cluster, placement), scores(), Budget())
    fast_s = dense.dense[0, COMPUTE]
    levels = BlockLevels((fast_s, 2 * fast_s, 9.0), (9.0,) * 3)
    capacity = formulate(
        deploy(WORKLOAD, cluster, placement), scores(), Budget(levels=levels)
    ).problem
    slow = capacity.capacity[dense.knapsack_device == 5, COMPUTE]
    np.testing.assert_allclose(slow, [fast_s, 2 * fast_s, np.inf])
    assert np.isinf(capacity.capacity[dense.knapsack_device < 5, COMPUTE]).all()


def test_levels_of_another_model_are_refused():
    cluster, placement = two_each()
    with pytest.raises(InputError, match="levels for 2 blocks; m has 3"):
        formulate(
            deploy(WORKLOAD, cluster, placement),
            scores(),
            Budget(levels=BlockLevels((1.0,) * 2, (1.0,) * 2)),
        )
    with pytest.raises(InputError, match=r"compute_s\[1\] is -1.0"):
        BlockLevels((1.0, -1.0), (1.0, 1.0))
    with pytest.raises(InputError, match="per device cannot have them"):
        Budget(per_block=False, levels=BlockLevels((1.0,), (1.0,)))


def lane_seconds(formulation, plan):
    """Spent and largest single operation of each knapsack, seconds."""
    spent = formulation.problem.spending(plan.schedule)[:, COMPUTE]
    largest = np.zeros(len(spent))
    full = formulation.problem.cost[COMPUTE, ..., Operation.FULL].max(axis=1)
    np.maximum.at(largest, formulation.problem.knapsack[:, 0], full)
    return spent, largest


@pytest.mark.parametrize("fraction", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_equal_devices_do_equal_work_whatever_the_fraction(fraction):
    cluster = switch_of([1] * 6)
    plan = make_plan(deploy(WORKLOAD, cluster), uniform_scores(18, 5), Budget(compute=fraction))
    spent, _ = lane_seconds(formulated(cluster, Budget(compute=fraction)), plan)
    assert np.ptp(spent) <= 1e-12 * spent.max()


@pytest.mark.parametrize("per_block", [True, False])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("speeds", [[1] * 6, [10, 7, 5, 3, 2, 1], [1, 1, 1, 1, 1, 0.1]])
def test_every_knapsack_is_filled_within_one_operation(speeds, fraction, per_block):
    cluster, budget = switch_of(speeds), Budget(compute=fraction, per_block=per_block)
    plan = make_plan(deploy(WORKLOAD, cluster), scores(), budget)
    formulation = formulated(cluster, budget)
    spent, largest = lane_seconds(formulation, plan)
    asked = np.minimum(formulation.problem.capacity[:, COMPUTE], formulation.dense[:, COMPUTE])
    assert (spent <= asked * (1 + 1e-9)).all()
    assert (spent > asked - largest).all()


def test_coverage_keeps_subnets_of_every_block_on_every_microbatch():
    cluster = switch_of([1, 0.1, 0.1])
    free = make_plan(deploy(WORKLOAD, cluster), scores(), Budget(compute=0.2))
    covered = make_plan(deploy(WORKLOAD, cluster), scores(), Budget(compute=0.2, coverage=2))
    active = covered.schedule != Operation.SHORTCUT
    assert (active.reshape(3, 6, 5).sum(axis=1) >= 2).all()
    assert ((free.schedule != Operation.SHORTCUT).reshape(3, 6, 5).sum(axis=1) < 2).any()
    assert covered.solver.objective < free.solver.objective
    with pytest.raises(InputError, match="coverage is 7; a block has 6 subnets"):
        formulated(cluster, Budget(coverage=7))
