"""Plans on ways: never slower than fewer samples, dense where the budget is whole."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores, uniform_scores
from d2ft_sched.schedule.operations import Operation, trains_in_step
from sim.step import simulate_step
from sim.ways.estimate.load import load_of
from sim.ways.estimate.steps import WaySteps
from sim.ways.fewer import fewest, samples_of_compute
from sim.ways.plans import plan_on_ways
from sim.ways.redeal import redealt_scores
from sim.ways.search import best_dense, search_ways
from sim.ways.target import plan_for_target_on_ways
from sim.ways.way_plan import WayPlan

SHAPE = vision_transformer_shape(
    "tiny", image_size=24, patch_size=8, width=48, num_blocks=4, num_heads=2, mlp_hidden=96,
    num_classes=10,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (8, 8, 8, 8))
SCORES = uniform_scores(WORKLOAD.num_subnets, 4)


def switch_of(speeds: list[float], bandwidth: float) -> Cluster:
    some = tuple(
        Device(f"d{i}", 1e9 * v, 10**9, 1e9 * v, launch_s=1e-6) for i, v in enumerate(speeds)
    )
    network = topology.star([d.name for d in some], Cable(bandwidth, 1e-5))
    return Cluster("switch", some, network.links, network.switches)


def step_s(found: WayPlan) -> float:
    plan = found.plan
    return simulate_step(plan, plan.schedule).step_s


@settings(deadline=None, max_examples=12)
@example([2.0, 0.25, 5.0, 2.0], 1e9, None, 0.2, 1.0, 0)  # a cut that leaves a device empty
@example([2.0, 2.0], 1e9, None, 0.1875, 0.75, 0)  # five samples, cut, are sooner than six shared
@given(
    st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=1, max_size=4),
    st.sampled_from([1e6, 1e7, 1e8, 1e9]),
    st.sampled_from([None, Lora(4, 8.0)]),
    st.floats(0.1, 1.0),
    st.sampled_from([1.0, 0.75, 0.5, 0.1]),
    st.integers(0, 9),
)
def test_no_plan_is_slower_than_fewer_samples_or_spends_more(
    speeds, bandwidth, lora, compute, communication, seed
):
    workload = replace(WORKLOAD, lora=lora)
    budget = Budget(compute=compute, communication=communication)
    cluster = switch_of(speeds, bandwidth)
    search = search_ways(workload, cluster)
    found = plan_on_ways(workload, cluster, SCORES, budget, seed=seed, search=search)
    plan = found.plan
    assert found.step_s == pytest.approx(step_s(found), rel=1e-9)
    assert found.step_s <= found.fewer.dense_step_s
    of_budget = max(1, int(compute * 32 * (1 + 1e-12)))
    assert found.step_s <= fewest(search, of_budget).dense_step_s
    of_spent = samples_of_compute(plan, plan.schedule)
    if communication == 1 and found.method != "scores":
        assert found.step_s <= fewest(search, of_spent).dense_step_s * (1 + 1e-9)
        beside = min(of_spent, of_budget)
        assert sum(found.fewer.samples) in (beside, min(beside + 1, of_budget))
        assert found.fewer.dense_step_s <= fewest(search, beside).dense_step_s
    assert sum(found.samples) >= sum(found.fewer.samples)
    assert plan.workload.samples.sum() == 32
    assert plan.budget == budget
    spent = np.take_along_axis(
        operation_flops(plan.workload), plan.schedule[..., None].astype(int), axis=2
    ).sum()
    dense = operation_flops(workload)[..., Operation.FULL].sum()
    rounding = dense / 32 if of_budget == 1 else 0.0
    if lora is None:
        assert spent <= compute * dense * (1 + 1e-9) + rounding
    if found.method == "rest":
        part, least = trains_in_step(plan.schedule).mean(), 1 / 8 if lora is None else 1 / 4
        assert least <= part <= max(communication, 1 / 4)
    assert [row.chosen for row in found.table].count(True) == 1
    assert found.table[0].dense_step_s == found.best_dense.dense_step_s


def test_a_whole_budget_is_the_best_dense_way():
    for bandwidth in (1e6, 1e9):
        cluster = switch_of([1.0, 2.0, 0.5], bandwidth)
        found = plan_on_ways(WORKLOAD, cluster, SCORES, Budget())
        assert found.method == "dense"
        assert (found.plan.schedule == Operation.FULL).all()
        assert found.step_s == found.best_dense.dense_step_s
        assert found.kept_score == 1


def test_rest_is_chosen_where_gradients_have_a_budget_and_sends_less():
    cluster = switch_of([1.0, 1.0], 5e7)
    dense = plan_on_ways(WORKLOAD, cluster, SCORES, Budget())
    found = plan_on_ways(WORKLOAD, cluster, SCORES, Budget(compute=0.6, communication=0.5))
    assert found.method == "rest"
    assert sum(found.samples) > sum(found.fewer.samples)
    (row,) = [row for row in found.table if row.chosen]
    (whole,) = [row for row in dense.table if row.chosen]
    assert row.plan_exchange_bytes < 0.6 * whole.plan_exchange_bytes


def test_scores_choose_where_the_best_way_is_one_replica():
    rng = np.random.default_rng(0)
    table = rng.exponential(1.0, (WORKLOAD.num_subnets, 4)) ** 2
    (device,) = switch_of([1.0], 1e6).devices
    only_lanes = replace(device, memory_bandwidth_bytes_per_s=1e15, launch_s=0.0)
    cluster = Cluster("one", (only_lanes,))
    found = plan_on_ways(WORKLOAD, cluster, Scores(table, table), Budget(compute=0.6))
    assert found.method == "scores"
    assert found.kept_score > 0.7
    assert found.step_s <= found.fewer.dense_step_s


@pytest.mark.parametrize("communication", [0.7, 0.5, 0.2])
@pytest.mark.parametrize("compute", [1.0, 0.6])
def test_adapters_rest_only_where_fewer_samples_keep_no_budget_of_bytes(compute, communication):
    workload, cluster = replace(WORKLOAD, lora=Lora(4, 8.0)), switch_of([1.0, 1.0, 2.0], 1e8)
    budget, whole = Budget(compute, communication), Budget(compute)
    found = plan_on_ways(workload, cluster, SCORES, budget)
    assert found.method == "fewer samples"
    dense = plan_on_ways(workload, cluster, SCORES, Budget())
    sent, all_sent = (
        next(row.plan_exchange_bytes for row in one.table if row.chosen) for one in (found, dense)
    )
    assert sent <= communication * all_sent
    most = sum(plan_on_ways(workload, cluster, SCORES, whole).samples)
    assert communication * most - 1 < sum(found.samples) <= most
    only_pair = switch_of([1.0, 1.0], 1e8)
    rested = plan_on_ways(
        workload, only_pair, SCORES, Budget(compute, 0.5), kinds=["data parallel"]
    )
    assert rested.method == "rest"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.data())
def test_redealt_scores_keep_what_every_sample_has(given_samples, seed, data):
    rng = np.random.default_rng(seed)
    total, wanted = sum(given_samples), []
    while sum(wanted) < total:
        wanted.append(data.draw(st.integers(1, total - sum(wanted))))
    scores = Scores(*rng.random((2, 3, len(given_samples))))
    dealt = redealt_scores(scores, given_samples, wanted)
    of_sample = np.repeat(scores.forward / given_samples, given_samples, axis=1)
    ends = np.cumsum(wanted)[:-1]
    expected = [part.sum(axis=1) for part in np.split(of_sample, ends, axis=1)]
    np.testing.assert_allclose(dealt.forward, np.array(expected).T)
    again = redealt_scores(dealt, wanted, given_samples)
    np.testing.assert_allclose(again.backward.sum(axis=1), scores.backward.sum(axis=1))


def test_prices_of_large_mini_batches_take_memory_by_kinds_of_blocks():
    workload = replace(WORKLOAD, microbatch_samples=(10_000,) * 4)
    steps = WaySteps(workload, switch_of([1.0], 1e8))
    after_s = np.zeros(4)
    tracemalloc.start()
    try:
        for fewer in range(40):
            load = load_of(WORKLOAD, 40_000 - fewer, np.repeat([True, False, True, False], 2))
            steps.run((0,), load, False).ends_s(after_s)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_budget_of_less_than_one_sample_is_refused():
    cluster = switch_of([1.0, 2.0], 1e9)
    assert sum(plan_on_ways(WORKLOAD, cluster, SCORES, Budget(compute=1 / 32)).samples) == 1
    with pytest.raises(InputError, match=r"budget is 0\.03 .* one of 32 samples .* takes 0\.0312"):
        plan_on_ways(WORKLOAD, cluster, SCORES, Budget(compute=0.03))


def test_scores_of_other_samples_are_refused():
    with pytest.raises(InputError, match="of 4 with 31 samples"):
        redealt_scores(SCORES, (8, 8, 8, 8), (8, 8, 15))


@pytest.mark.parametrize("part", [1.5, 0.7, 0.3])
@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)])
@pytest.mark.parametrize("speeds", [[1.0], [1.0, 0.5, 2.0]])
def test_a_target_is_met_with_at_least_as_many_samples_as_by_fewer(speeds, lora, part):
    workload, cluster = replace(WORKLOAD, lora=lora), switch_of(speeds, 1e8)
    search = search_ways(workload, cluster)
    target_s = part * best_dense(search).dense_step_s
    found = plan_for_target_on_ways(workload, cluster, SCORES, target_s, search=search)
    assert found.step_s <= target_s
    assert found.fewer.dense_step_s <= target_s
    assert sum(found.samples) >= sum(found.fewer.samples)
    assert (found.method == "dense") == (part > 1)
    assert found.step_s == pytest.approx(step_s(found), rel=1e-9)


def test_blocks_rest_for_a_target_that_no_dense_sample_meets():
    cluster = switch_of([1.0], 1e9)
    search = search_ways(WORKLOAD, cluster)
    one = replace(WORKLOAD, microbatch_samples=(1,))
    target_s = 0.9 * best_dense(search_ways(one, cluster)).dense_step_s
    found = plan_for_target_on_ways(WORKLOAD, cluster, SCORES, target_s, search=search)
    assert (found.method, sum(found.fewer.samples)) == ("rest", 1)
    assert step_s(found) <= target_s < found.fewer.dense_step_s


def test_a_target_that_no_sample_meets_is_refused():
    with pytest.raises(InputError, match="not even one sample runs that fast"):
        plan_for_target_on_ways(WORKLOAD, switch_of([1.0], 1e6), SCORES, 1e-6)
