"""No plan trains on noise unasked: every micro-batch passes every block, or the plan says no."""

import numpy as np
import pytest

from analysis.names.placement_names import PlacementName
from analysis.planning.plan_request import plan_request
from analysis.planning.request import Request
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.starved import starved_microbatches
from d2ft_sched.schedule.operations import Operation

SHAPE = ModelShape("m", 2, 4, 8, 32, 64, 5, trunk_parameters=1000)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4,) * 5)
DEVICES = tuple(Device(f"d{i}", 1e9, 10**9, 1e18) for i in range(2))
LINKS = tuple(Link(d.name, "switch", 1e8, 1e-6) for d in DEVICES)


def request_of(budget: Budget, *weak: tuple[int, int]) -> Request:
    """Of scores that are alike but for some (block, micro-batch), worth next to nothing."""
    score = np.ones((WORKLOAD.num_subnets, 5))
    for block, microbatch in weak:
        score[WORKLOAD.partition.block == block, microbatch] = 1e-3
    return Request(
        WORKLOAD, Cluster("c", DEVICES, LINKS, ("switch",)), Scores(score, score), budget
    )


def test_what_the_most_score_would_starve_passes_every_block() -> None:
    block, request = WORKLOAD.partition.block, request_of(Budget(compute=0.5), (1, 0))
    free = plan_request(request, PlacementName.ROUND_ROBIN, may_starve=True)
    planned = plan_request(request, PlacementName.ROUND_ROBIN)
    assert starved_microbatches(free.plan.schedule, block).tolist() == [0]
    assert "1 of 5 micro-batches pass no subnet" in free.starved
    assert not len(starved_microbatches(planned.plan.schedule, block))
    assert planned.starved == ""
    assert planned.plan.budget.coverage == 1


def test_what_passes_no_block_at_all_is_left_out_and_needs_no_coverage() -> None:
    request = request_of(Budget(compute=0.5), (0, 0), (1, 0))
    planned = plan_request(request, PlacementName.ROUND_ROBIN)
    assert (planned.plan.schedule[:, 0] == Operation.SHORTCUT).all()
    assert planned.starved == ""
    assert planned.plan.budget.coverage == 0


def test_what_cannot_pass_every_block_is_refused_as_that() -> None:
    apart = [(0, i) for i in (0, 1, 2)] + [(1, i) for i in (3, 4)]
    with pytest.raises(InputError, match=r"pass no subnet of some block.*--coverage 0"):
        plan_request(request_of(Budget(compute=0.05), *apart), PlacementName.ROUND_ROBIN)
