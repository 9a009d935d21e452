"""Schedules that keep a coverage by the cheapest operations."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.shared import Coverage
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.coupled.covering import covering
from d2ft_sched.solvers.coupled.lagrangian import solve_lagrangian


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_equal_operations_cover_what_there_is_room_for_and_no_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_subnets, num_microbatches = rng.integers(1, 6, 2).tolist()
    minimum = int(rng.integers(1, num_subnets + 1))
    cost = np.zeros((1, num_subnets, num_microbatches, 3))
    cost[..., 1:] = [1.0, 3.0]
    room = rng.integers(0, num_microbatches + 2, (4, num_subnets, 1)).astype(float)
    problem = Problem(
        value=np.broadcast_to([0.0, 1.0, 9.0], cost.shape[1:]).copy(),
        cost=cost,
        knapsack=np.arange(num_subnets),
        capacity=room[0],
        shared=(Coverage(np.zeros(num_subnets, dtype=int), minimum),),
    )
    schedules, covered = covering(problem, problem.shared[0], room)
    enough = np.minimum(room, num_microbatches).sum(axis=(1, 2)) >= minimum * num_microbatches
    assert (covered[:, 0] <= enough).all()
    for case in np.flatnonzero(covered[:, 0]):
        active = schedules[case] == Operation.FORWARD_ONLY
        assert (active.sum(axis=0) == minimum).all()
        assert (active.sum(axis=1) <= room[case, :, 0]).all()
    found = solve_lagrangian(problem, max_rounds=1).schedule
    assert found is not None or not covered[0, 0]
    if num_subnets == minimum or (room >= num_microbatches).all():
        assert (covered[:, 0] == enough).all()
