"""Samples dealt anew to the replicas of a plan: as the search deals them, and weights stay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.cluster.topology import Cable
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.replica_part import replica_parts
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.wave_part import wave_parts
from sim.step import simulate_step
from sim.ways.plans import plan_on_ways
from sim.ways.sample_dealer import SampleDealer, slower
from sim.ways.search import search_ways
from sim.work import wave_work

SHAPE = vision_transformer_shape(
    "tiny", image_size=24, patch_size=8, width=48, num_blocks=4, num_heads=2, mlp_hidden=96,
    num_classes=10,
)  # fmt: skip
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (8, 8, 8, 8))


def switch_of(*speeds: float) -> Cluster:
    devices = tuple(
        Device(f"d{i}", 1e9 * v, 10**9, 1e9 * v, launch_s=1e-6) for i, v in enumerate(speeds)
    )
    network = topology.star([d.name for d in devices], Cable(1e9, 1e-5))
    return Cluster("switch", devices, network.links, network.switches)


UNEQUAL = switch_of(4.0, 2.0, 2.0, 1.0)


DATA_PARALLEL = ["data parallel"]
BUDGETS = {"dense": Budget(), "fewer": Budget(0.6), "rest": Budget(0.6, 0.5)}


@pytest.fixture(scope="module")
def deals() -> dict[str, SampleDeal]:
    """Of plans, and one of two replicas of which one is cut."""
    search = search_ways(WORKLOAD, UNEQUAL, kinds=DATA_PARALLEL)
    scores = uniform_scores(WORKLOAD.num_subnets, 4)
    made = {"hybrid": hybrid(6, 5, 5, 8, 8)}
    for kind, budget in BUDGETS.items():
        found = plan_on_ways(WORKLOAD, UNEQUAL, scores, budget, kinds=DATA_PARALLEL, search=search)
        plan = found.plan
        made[kind] = SampleDeal(plan.workload, plan.replicas, plan.schedule)
    return made


def hybrid(*sizes: int, owner: tuple[int, ...] = (0, 1, 0)) -> SampleDeal:
    """Subnets of one replica on devices 0 and 1 in turns, of the other on device 2."""
    workload = replace(WORKLOAD, microbatch_samples=sizes)
    in_turns = tuple(s % 2 for s in range(workload.num_subnets))
    alone = (2,) * workload.num_subnets
    others = (2,) * (len(sizes) - len(owner))
    replicas = Replica(Placement(4, in_turns, owner)), Replica(Placement(4, alone, others))
    full = uniform_schedule(workload.num_subnets, len(sizes), Operation.FULL)
    return SampleDeal(workload, replicas, full)


def step_s(deal: SampleDeal, cluster: Cluster) -> float:
    return simulate_step(Deployment(deal.workload, cluster, deal.replicas), deal.schedule).step_s


@pytest.mark.parametrize("kind", BUDGETS)
def test_devices_as_planned_get_what_the_plan_gave_them(deals, kind):
    deal = deals[kind]
    again = SampleDealer(deal, UNEQUAL).at([1.0] * 4)
    assert again.samples == deal.samples
    assert step_s(again, UNEQUAL) == pytest.approx(step_s(deal, UNEQUAL), rel=0.01)


@settings(deadline=None, max_examples=15)
@given(
    kind=st.sampled_from(["dense", "fewer", "rest", "hybrid"]),
    slowness=st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0, 40.0]), min_size=4, max_size=4),
)
def test_a_deal_keeps_weights_samples_and_kind_and_is_not_slower(deals, kind, slowness):
    deal = deals[kind]
    made, then = SampleDealer(deal, UNEQUAL).at(slowness), slower(UNEQUAL, slowness)
    assert made.workload.samples.sum() == deal.workload.samples.sum()
    assert sum(made.samples) == sum(deal.samples)
    assert min(made.samples) >= 1
    for before, now in zip(deal.replicas, made.replicas, strict=True):
        assert now.placement.subnet_device == before.placement.subnet_device
        assert set(now.placement.owner) == set(before.placement.owner)
    trains, before = (trains_in_step(one.schedule) for one in (made, deal))
    assert (trains == before).all()
    assert set(np.unique(made.schedule)) <= set(np.unique(deal.schedule))
    assert step_s(made, then) <= step_s(deal, then)


@settings(deadline=None, max_examples=10)
@given(slowdown=st.floats(1.5, 8.0))
def test_replicas_end_together(deals, slowdown):
    deal = deals["dense"]
    assert len(deal.replicas) > 1
    slowness = [slowdown, *(1.0,) * 3]
    made, then = SampleDealer(deal, UNEQUAL).at(slowness), slower(UNEQUAL, slowness)
    ends = [
        sum(made.lanes_s(made.schedule, d, then.devices) for d in replica.devices)
        for replica in made.replicas
    ]
    a_sample = max(e / n for e, n in zip(ends, made.samples, strict=True))
    assert max(ends) - min(ends) <= 1.1 * a_sample


def test_passes_follow_the_memory_of_the_device_that_gets_more():
    cluster = switch_of(1.0, 1.0)
    deal = SampleDeal(
        replace(WORKLOAD, microbatch_samples=(16, 16)),
        tuple(Replica(Placement(2, (d,) * WORKLOAD.num_subnets, (d,))) for d in range(2)),
        uniform_schedule(WORKLOAD.num_subnets, 2, Operation.FULL),
    )
    peak = simulate_step(
        Deployment(deal.workload, cluster, deal.replicas), deal.schedule
    ).peak_memory_bytes.max()
    tight = replace(
        cluster, devices=tuple(replace(d, memory_bytes=int(peak)) for d in cluster.devices)
    )
    made = SampleDealer(deal, tight).at([6.0, 1.0])
    assert made.samples[1] > 16
    assert made.replicas[0].num_waves == 1 < made.replicas[1].num_waves
    assert not simulate_step(
        Deployment(made.workload, tight, made.replicas), made.schedule
    ).out_of_memory


@pytest.mark.parametrize("kind", ["dense", "rest", "hybrid"])
def test_lanes_take_what_the_simulator_says(deals, kind):
    deal = deals[kind]
    cluster, expected = UNEQUAL, np.zeros(4)
    for part in replica_parts(deal.workload, deal.replicas, deal.schedule):
        for wave in wave_parts(part.workload, part.replica, part.schedule):
            expected += wave_work(wave, cluster).lanes_s.sum(axis=(0, 1, 2))
    found = [deal.lanes_s(deal.schedule, d, cluster.devices) for d in range(4)]
    assert found == pytest.approx(expected.tolist(), rel=1e-9)


def test_what_cannot_move_is_refused():
    deal = hybrid(1, 1, 1, 2, 2)
    mixed = deal.schedule.copy()
    mixed[0] = Operation.FORWARD_ONLY
    with pytest.raises(InputError, match="subnets that do not the same"):
        SampleDealer(replace(deal, schedule=mixed), UNEQUAL)
    mixed = deal.schedule.copy()
    mixed[:, 1:] = Operation.SHORTCUT
    with pytest.raises(InputError, match="between 3 owners; this plan runs 1"):
        SampleDealer(replace(deal, schedule=mixed), UNEQUAL)


def test_an_owner_without_a_sample_keeps_the_plan():
    """Three owners of passes of two samples would have to share one that is not there."""
    owners = hybrid(2, 2, 28, owner=(0, 1))
    made = SampleDealer(owners, UNEQUAL).at([40.0, 40.0, 1.0, 1.0])
    assert set(made.owner) == {0, 1, 2}
    assert min(made.samples) >= 2
