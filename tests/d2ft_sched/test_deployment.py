"""A workload on a cluster: one replica from a placement, and what is asked of several."""

import numpy as np
import pytest

from d2ft_sched.deployment import Deployment, deploy
from d2ft_sched.errors import InputError
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from small_placements import switch_of, workload_of

WORKLOAD = workload_of(samples=(4, 3, 2))
TWO = switch_of([1, 1], [1e9, 1e9])


def test_one_replica_is_dealt_in_turn_unless_told():
    in_turn = place_round_robin(WORKLOAD.partition, 3, 2)
    assert deploy(WORKLOAD, TWO).replicas == (Replica(in_turn),)
    alone = Placement(2, (1,) * 8, (1,) * 3)
    placed = deploy(WORKLOAD, TWO, alone, 3)
    assert (placed.placement, placed.num_waves, placed.devices) == (alone, 3, (1,))
    assert placed.uniform(Operation.FULL).shape == (8, 3)


def test_only_devices_with_several_subnets_of_a_block_share_messages():
    four = switch_of([1] * 4, [1e9] * 4)
    assert not deploy(WORKLOAD, four).shares_messages
    assert deploy(WORKLOAD, TWO).shares_messages


def test_parts_of_replicas_have_their_own_micro_batches():
    replicas = tuple(Replica(Placement(2, (d,) * 8, (d,) * n)) for d, n in ((0, 1), (1, 2)))
    both = Deployment(WORKLOAD, TWO, replicas)
    schedule = np.arange(24).reshape(8, 3) % 3
    first, second = both.parts_of(schedule)
    assert (first.workload.microbatch_samples, second.workload.microbatch_samples) == ((4,), (3, 2))
    np.testing.assert_array_equal(np.hstack([first.schedule, second.schedule]), schedule)
    assert both.devices == (0, 1)
    with pytest.raises(InputError, match="has 2 replicas; this needs a plan of one"):
        both.placement  # noqa: B018


def test_what_is_of_another_cluster_or_mini_batch_is_refused():
    placed = deploy(WORKLOAD, TWO)
    with pytest.raises(InputError, match="is for 2 devices; the cluster has 1"):
        placed.on(switch_of([1], [1e9]))
    with pytest.raises(InputError, match="is of 3 micro-batches; the workload has 1"):
        deploy(workload_of(samples=(4,)), TWO, placed.placement)
