"""Explanations and differences of plans, against what the solver and the simulator say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.names.placement_names import PlacementName
from analysis.planning.explain import UNIT_SIZE, explain
from analysis.planning.plan_diff import diff_plans
from analysis.planning.plan_request import plan_request
from analysis.planning.plan_summary import summarize
from analysis.planning.request import Request
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.problem.formulate import RESOURCES, formulate
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.solvers.registry import solve
from sim.step import simulate_plan

SHAPE = ModelShape("m", 3, 6, 8, 48, 96, 5, trunk_parameters=1000)
PARTITION = partition_by_heads(SHAPE, 1)
WORKLOAD = Workload(SHAPE, PARTITION, (4,) * 5)
COMPUTE, MESSAGES = (RESOURCES.index(n) for n in ("compute_s", "communication_bytes"))


def switch_of(speeds, bandwidth=1e8):
    devices = tuple(Device(f"d{i}", 1e9 * v, 10**9, 1e18) for i, v in enumerate(speeds))
    links = tuple(Link(d.name, "switch", bandwidth, 1e-5) for d in devices)
    return Cluster("c", devices, links, ("switch",))


CLUSTER = switch_of([1, 1, 1, 1, 1, 0.2])


def scores(seed=0):
    rng = np.random.default_rng(seed)
    return Scores(rng.random((18, 5)) + 0.1, rng.random((18, 5)) + 0.1)


def plan_with(budget, **placed):
    return make_plan(deploy(WORKLOAD, CLUSTER, **placed), scores(), budget)


def test_only_the_slow_device_binds():
    formulation = formulate(
        deploy(WORKLOAD, CLUSTER, place_round_robin(PARTITION, 5, 6)), scores(), Budget()
    )
    level = float(formulation.dense[:, COMPUTE].min())
    plan = plan_with(Budget(levels=BlockLevels((level,) * 3, (1.0,) * 3)))
    explanation = explain(plan, scores())
    slow = explanation.devices[5]
    assert slow.uses["compute_s"].num_limited == 3
    assert slow.uses["compute_s"].num_binding == 3
    assert slow.uses["compute_s"].marginal_value > 0
    for device in explanation.devices[:5]:
        assert device.uses["compute_s"].num_limited == 0
        assert device.uses["compute_s"].spent == pytest.approx(device.uses["compute_s"].dense)
    assert all(d.uses["communication_bytes"].num_limited == 0 for d in explanation.devices)


def test_the_marginal_value_is_what_the_solver_gains():
    plan = plan_with(Budget(compute=0.6, communication=0.8))
    explanation = explain(plan, scores())
    problem = formulate(deploy(WORKLOAD, CLUSTER, plan.placement), scores(), plan.budget).problem
    base = solve(problem).objective
    for r, name in ((COMPUTE, "compute_s"), (MESSAGES, "communication_bytes")):
        gains = []
        for k in range(problem.num_knapsacks):
            if not np.isfinite(problem.capacity[k, r]):
                continue
            mine = problem.knapsack[:, 0] == k
            size = problem.cost[r, mine, :, Operation.FULL].max()
            capacity = problem.capacity.copy()
            capacity[k, r] += size
            more = solve(replace(problem, capacity=capacity)).objective
            gains.append((more - base) / size * UNIT_SIZE[name])
        found = max(d.uses[name].marginal_value for d in explanation.devices)
        assert found == pytest.approx(max(gains, default=0.0), abs=1e-9)


def test_phases_add_up_to_the_step():
    plan = plan_with(Budget(compute=0.6))
    explanation = explain(plan, scores())
    assert sum(explanation.phase_s.values()) == pytest.approx(simulate_plan(plan).step_s)
    assert explanation.phase_s["lanes"] > 0
    assert sum(d.num_slowest for d in explanation.devices) >= explanation.num_lane_phases
    assert 0 < explanation.retained < 1
    json.dumps(explanation.as_dict())


def test_devices_that_tie_are_all_the_slowest():
    plan = make_plan(deploy(WORKLOAD, switch_of([1] * 6)), scores(), Budget())
    explanation = explain(plan, scores())
    holders = [d for d in explanation.devices if d.num_subnets]
    assert len(holders) > 1
    assert {d.num_slowest for d in holders} == {explanation.num_lane_phases}


def test_messages_that_subnets_share_are_counted_once():
    cluster = switch_of([1, 1])
    plan = make_plan(
        deploy(WORKLOAD, cluster, place_round_robin(PARTITION, 5, 2)), scores(), Budget(compute=0.6)
    )
    uses = [d.uses["communication_bytes"] for d in explain(plan, scores()).devices]
    for schedule, counted in (
        (plan.schedule, [use.spent for use in uses]),
        (np.full_like(plan.schedule, Operation.FULL), [use.dense for use in uses]),
    ):
        exchange = plan_exchange(WORKLOAD, plan.placement, schedule)
        assert sum(counted) == exchange.total_bytes() > 0


def test_dense_binds_nowhere_and_keeps_everything():
    explanation = explain(plan_with(Budget()), scores())
    assert explanation.retained == pytest.approx(1)
    assert all(use.num_binding == 0 for d in explanation.devices for use in d.uses.values())


def test_a_plan_does_not_differ_from_itself():
    plan = plan_with(Budget(compute=0.6))
    diff = diff_plans(plan, plan)
    assert (diff.settings, diff.num_moved, diff.num_reowned, diff.changed) == ({}, 0, 0, {})
    assert all(a == b for a, b in diff.effects.values())


def test_differences_are_counted():
    first, second = plan_with(Budget()), plan_with(Budget(compute=0.5))
    diff = diff_plans(first, second)
    assert diff.settings["budget.compute"] == (1.0, 0.5)
    differs = first.schedule != second.schedule
    assert sum(diff.changed.values()) == (differs * WORKLOAD.samples).sum()
    assert all(before == "FULL" for before, _ in diff.changed)
    assert diff.effects["flops"][1] < diff.effects["flops"][0]
    assert diff.effects["step_s"] == (simulate_plan(first).step_s, simulate_plan(second).step_s)
    for d, device in enumerate(diff.devices):
        held = np.array(second.placement.subnet_device) == d
        assert device.operations[1][2] == (second.schedule[held] == Operation.FULL).sum()
    json.dumps(diff.as_dict())


def test_other_sizes_and_another_network_are_told():
    shape = replace(SHAPE, num_tokens=9, classifier_flops=7)
    larger = Workload(shape, PARTITION, (4,) * 5, parameter_bytes=2)
    cluster = switch_of([1, 1, 1, 1, 1, 0.2], bandwidth=2e8)
    second = make_plan(deploy(larger, cluster), scores(), Budget())
    assert diff_plans(plan_with(Budget()), second).settings == {
        "model.num_tokens": (5, 9),
        "model.classifier_flops": (0, 7),
        "cluster": ("c", "c with other network"),
        "bytes of a parameter": (4, 2),
    }


def test_moved_subnets_and_owners_are_counted():
    moved = Placement(
        6, (5, *place_round_robin(PARTITION, 5, 6).subnet_device[1:]), (1, 1, 2, 3, 4)
    )
    diff = diff_plans(plan_with(Budget()), plan_with(Budget(), placement=moved))
    assert (diff.num_moved, diff.num_reowned) == (1, WORKLOAD.microbatch_samples[0])
    assert diff.devices[5].num_subnets == (3, 4)


def test_plans_of_other_models_are_refused():
    other = replace(SHAPE, name="other")
    workload = Workload(other, partition_by_heads(other, 1), (4,) * 5)
    plan = make_plan(deploy(workload, CLUSTER), scores(), Budget())
    with pytest.raises(InputError, match="different models, m and other"):
        diff_plans(plan_with(Budget()), plan)


def test_adapters_of_a_plan_are_counted_as_the_simulator_does_and_no_bound_is_claimed():
    adapted = replace(WORKLOAD, shape=replace(SHAPE, classifier_parameters=10), lora=Lora(4, 8.0))
    request = Request(adapted, CLUSTER, scores(), Budget(compute=0.5))
    planned = plan_request(request, PlacementName.BALANCED)
    assert summarize(planned.plan).flops == simulate_plan(planned.plan).flops
    assert planned.placed.lower_bound_s is None


def request_of(budget=Budget()):  # noqa: B008  a frozen value
    return Request(WORKLOAD, CLUSTER, scores(), budget)


@pytest.mark.parametrize("name", list(PlacementName))
def test_a_fraction_is_of_the_placements_dense_step(name):
    planned = plan_request(request_of(), name, target_step_time="0.6x")
    assert planned.plan.budget.target_step_s == pytest.approx(0.6 * planned.placed.dense_step_s)
    assert simulate_plan(planned.plan).step_s <= 0.6 * planned.placed.dense_step_s * (1 + 1e-9)
    assert "0.6 of the dense step" in planned.target


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(compute=0.5), "leave --budget-compute"),
        (Budget(per_block=False), "leave --per-device out"),
    ],
)
def test_a_target_and_a_budget_exclude_each_other(budget, message):
    with pytest.raises(InputError, match=message):
        plan_request(request_of(budget), PlacementName.BALANCED, target_step_time="1s")


def test_a_communication_budget_aligns_where_messages_are_shared():
    request = Request(WORKLOAD, switch_of([1, 1]), scores(), Budget(communication=0.5))
    planned = plan_request(request, PlacementName.ROUND_ROBIN)
    assert planned.plan.budget.patterns == 1
    free = plan_request(request, PlacementName.ROUND_ROBIN, patterns="any")
    assert free.plan.budget.patterns is None


def test_patterns_are_as_few_as_save_more_time_than_score():
    device = replace(switch_of([1]).devices[0], launch_s=2e-5)
    request = Request(WORKLOAD, Cluster("c", (device,)), scores(), Budget(0.6))
    planned = plan_request(request, PlacementName.ROUND_ROBIN, patterns="auto", may_starve=True)
    free, *limited = planned.tried
    assert (free.patterns, free.value) == (None, 1.0)
    assert [one.patterns for one in limited] == [1, 2, 3, 4, 5]
    values = [one.value for one in limited]
    assert values == sorted(values)
    assert values[0] < values[-1] <= 1
    assert limited[0].step_s < free.step_s
    best = max(planned.tried, key=lambda one: one.value / one.step_s)
    assert best.patterns is not None
    assert planned.plan.budget.patterns == best.patterns
    assert simulate_plan(planned.plan).step_s == best.step_s
    two = plan_request(request, PlacementName.ROUND_ROBIN, patterns=2, may_starve=True)
    assert two.tried == (free, limited[1])
    assert two.plan.schedule_rows != planned.plan.schedule_rows or best.patterns == 2
