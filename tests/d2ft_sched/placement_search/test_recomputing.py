"""Placements compute forward again on the devices whose memory asks for it, and on no others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.memory import device_memory
from d2ft_sched.deployment import deploy
from d2ft_sched.placement_search.balanced import place_balanced
from d2ft_sched.placement_search.recomputing import recomputing_where_needed
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.formulate import formulate
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense_baselines import dense_step_alone
from sim.step import simulate_step
from small_placements import SHAPE, switch_of, workload_of

LONG = workload_of(samples=(40, 40, 40), shape=replace(SHAPE, num_blocks=6))
DENSE = uniform_schedule(LONG.num_subnets, 3, Operation.FULL)


def needed(placement: Placement) -> np.ndarray:
    return device_memory(LONG, Replica(placement), DENSE).total


def alone(recomputes: bool) -> float:
    here = Placement(1, (0,) * LONG.num_subnets, (0,) * 3, (0,) if recomputes else ())
    return float(needed(here)[0])


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.floats(0.0, 1.3), st.sampled_from([1e5, 1e12]))
def test_what_is_said_to_fit_fits_and_devices_with_room_compute_once(num, share, links):
    memory = int(alone(True) + share * (alone(False) - alone(True))) + 1
    cluster = switch_of([1, 2, 3][:num], [links] * num, memory_bytes=memory)
    found = place_balanced(LONG, cluster)
    again = found.placement.recomputing
    assert found.fits_dense
    assert (needed(found.placement) <= memory).all()
    for device in again:
        fewer = replace(found.placement, recomputing=tuple(d for d in again if d != device))
        assert needed(fewer)[device] > memory
    if share >= 1:
        assert not again
    step = simulate_step(deploy(LONG, cluster, found.placement), DENSE)
    assert found.lower_bound_s <= found.dense_step_s
    assert step.step_s - step.exposed_sums_s <= found.dense_step_s * (1 + 1e-9)


def test_one_device_computes_again_rather_than_two_send_much():
    memory = int(0.5 * (alone(False) + alone(True)))
    slow = place_balanced(LONG, switch_of([1, 1], [1e5, 1e5], memory_bytes=memory))
    assert (slow.num_active, len(slow.placement.recomputing)) == (1, 1)
    fast = place_balanced(LONG, switch_of([1, 1], [1e13, 1e13], memory_bytes=memory, latency_s=0))
    assert (fast.num_active, fast.placement.recomputing) == (2, ())


@given(st.lists(st.floats(0.5, 1.2), min_size=2, max_size=2))
@settings(deadline=None, max_examples=20)
def test_a_given_placement_computes_again_where_that_makes_it_fit(shares):
    cluster = switch_of([1, 1], [1e9, 1e9])
    dealt = place_round_robin(LONG.partition, 3, 2)
    once, every = needed(dealt), needed(replace(dealt, recomputing=(0, 1)))
    memory = (np.array(shares) * once).astype(int)
    devices = tuple(
        replace(d, memory_bytes=int(m)) for d, m in zip(cluster.devices, memory, strict=True)
    )
    found = recomputing_where_needed(deploy(LONG, replace(cluster, devices=devices), dealt))
    for d in range(2):
        helps = every[d] <= memory[d] < once[d]
        assert (d in found.placement.recomputing) == helps


def test_what_keeps_nothing_for_backward_has_no_limit_of_memory():
    placement = replace(place_round_robin(LONG.partition, 3, 2), recomputing=(0, 1))
    cluster = switch_of([1, 1], [1e9, 1e9])
    scores = uniform_scores(LONG.num_subnets, 3)
    capacity = formulate(
        deploy(LONG, cluster, placement), scores, Budget(compute=0.5)
    ).problem.capacity
    assert np.isinf(capacity[:, 2]).all()
    assert not np.isnan(capacity).any()


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_dense_step_alone_computes_again_where_its_memory_asks_for_it(recomputes):
    memory = int(alone(recomputes)) + 1
    device = switch_of([1], [1e9], memory_bytes=memory).devices[0]
    step = dense_step_alone(LONG, device)
    assert not step.out_of_memory
    assert step.peak_memory_bytes[0] == pytest.approx(alone(recomputes))
