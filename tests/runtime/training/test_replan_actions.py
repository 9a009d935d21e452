"""Samples that move, look after look: they come to rest, and small changes move nothing."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.replanning import DeviceTimes, as_planned, changed_pace, first_times
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.training.replan_actions import MovedSamples
from runtime.training.schedule_source import OneSchedule
from sim.ways.sample_dealer import SampleDealer

SHAPE = vision_transformer_shape(
    "small", image_size=28, patch_size=14, width=96, num_blocks=2, num_heads=6, mlp_hidden=384,
    num_classes=5,
)  # fmt: skip
NUM_DEVICES = 4
CLUSTER = Cluster(
    "four",
    tuple(Device(f"d{i}", 1e10, 2**33, 1e12, launch_s=1e-6) for i in range(NUM_DEVICES)),
    tuple(Link(f"d{i}", "switch", 1e9, 0.0) for i in range(NUM_DEVICES)),
    ("switch",),
)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, SHAPE.num_heads), (16, 16, 16))
DEAL = SampleDeal(
    WORKLOAD,
    tuple(Replica(Placement(NUM_DEVICES, (d,) * WORKLOAD.num_subnets, (d,))) for d in range(3)),
    uniform_schedule(WORKLOAD.num_subnets, 3, Operation.FULL),
)


class Training:
    """Three replicas and a rank of none, on devices that take something for any step besides."""

    def __init__(self, overhead: float = 0.0) -> None:
        deal_at = SampleDealer(DEAL, CLUSTER).at
        self.schedules = OneSchedule(DEAL.schedule, np.zeros(0))
        self.action = MovedSamples(DEAL, deal_at, self.schedules, CLUSTER.devices, 0)
        self.overhead_s = overhead * self.predicted_s().max()
        self.pace, self.num_moves = as_planned(NUM_DEVICES), 0
        self.first = first_times(self.times(np.ones(NUM_DEVICES)))

    def predicted_s(self) -> np.ndarray:
        deal = self.action.deal
        each = [deal.lanes_s(deal.schedule, d, CLUSTER.devices) for d in range(NUM_DEVICES)]
        return np.array(each)

    def times(self, slowdown: np.ndarray) -> DeviceTimes:
        predicted_s = self.predicted_s()
        lanes_s = slowdown * (predicted_s + self.overhead_s) * (predicted_s > 0)
        ratio = np.where(predicted_s > 0, lanes_s / np.maximum(predicted_s, 1e-300), np.nan)
        return DeviceTimes(lanes_s, ratio, np.full(NUM_DEVICES, 1e-6), np.zeros(NUM_DEVICES))

    def look(self, slowdown: np.ndarray) -> None:
        now = self.action.pace(self.times(slowdown), self.first)
        self.pace, changed = changed_pace(self.pace, now, self.action.total_s)
        if changed:
            self.num_moves += self.action.follow(self.pace, self.first, changed)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_scatter_moves_nothing(seed):
    training, rng = Training(), np.random.default_rng(seed)
    for _ in range(5):
        training.look(rng.uniform(0.92, 1.08, NUM_DEVICES))
    assert training.num_moves == 0
    assert training.action.deal is DEAL


@settings(deadline=None, max_examples=8)
@example(0, 2.5, 0.0)
@given(
    slow=st.integers(0, 2),
    slowdown=st.floats(1.3, 8.0) | st.floats(0.2, 0.7),
    overhead=st.floats(0.0, 0.2),
)
def test_samples_come_to_rest_where_replicas_end_together_and_come_back(slow, slowdown, overhead):
    training, disturbed = Training(overhead), np.ones(NUM_DEVICES)
    disturbed[slow] = slowdown
    training.look(disturbed)
    first_move = training.action.deal
    assert training.num_moves == 1
    assert (first_move.samples[slow] < 16) == (slowdown > 1)
    for _ in range(6):
        training.look(disturbed)
    rested, num_moves = training.action.deal, training.num_moves
    assert num_moves <= 4
    training.look(disturbed)
    assert training.action.deal is rested
    assert training.schedules.lasting.shape[1] == rested.workload.num_microbatches
    assert sum(rested.samples) == 48
    alone_s = Training(overhead).times(disturbed).lanes_s.max()
    assert training.times(disturbed).lanes_s.max() < alone_s
    for _ in range(3):
        training.look(np.ones(NUM_DEVICES))
    assert max(abs(n - 16) for n in training.action.deal.samples) <= 3
    assert overhead > 0 or training.action.deal is DEAL


def test_a_rank_of_no_replica_moves_nothing():
    training = Training()
    times = training.times(np.ones(NUM_DEVICES))
    training.first = first_times(times)
    times.rest_s[3] *= 50
    assert training.action.pace(times, training.first) == as_planned(NUM_DEVICES)
