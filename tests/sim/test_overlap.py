"""Waves that overlap: a schedule by hand, bounds, and nothing twice at one time."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.schedule.operations import Operation
from sim.prediction import Phase
from sim.timetable import interleaved, timetable

PAIR = Cluster(
    "pair",
    (Device("a", 1e9, 1, 1e9), Device("b", 1e9, 1, 1e9)),
    (Link("a", "b", 1e9, 0.0),),
)
seeds = st.integers(0, 2**32 - 1)


def wave_of(wave: int, trunk_s: list[float], lanes_s: list[float], exchange_s: float) -> list:
    def computing(name: str, seconds: list[float]) -> Phase:
        return Phase(wave, "forward", 0, name, 0.0, max(seconds), np.array(seconds))

    def moving(name: str) -> Phase:
        return Phase(wave, "forward", 0, name, 0.0, exchange_s, pair_bytes=np.eye(2))

    return [
        computing("trunk", trunk_s),
        moving("dispatch"),
        computing("lanes", lanes_s),
        moving("combine"),
    ]


def timed(*phases: Phase) -> tuple[Phase, ...]:
    return timetable(PAIR, phases, overlap=True)


def test_two_waves_by_hand():
    phases = timed(*interleaved([wave_of(w, [1, 0], [3, 3], 2) for w in (0, 1)]))
    spans = {(p.wave, p.name): (p.start_s, p.end_s) for p in phases}
    assert spans == {
        (0, "trunk"): (0, 1),
        (0, "dispatch"): (1, 3),
        (1, "trunk"): (1, 2),
        (1, "dispatch"): (3, 5),
        (0, "lanes"): (3, 6),
        (0, "combine"): (6, 8),
        (1, "lanes"): (6, 9),
        (1, "combine"): (9, 11),
    }


def test_devices_of_unequal_speed_start_the_next_wave_apart():
    phases = timed(*interleaved([wave_of(w, [1, 0], [2, 6], 1) for w in (0, 1)]))
    (lanes,) = (p for p in phases if p.wave == 1 and p.name == "lanes")
    np.testing.assert_array_equal(lanes.device_start_s, [4, 8])
    assert (lanes.start_s, lanes.end_s) == (4, 14)
    in_turn = timetable(PAIR, [p for w in (0, 1) for p in wave_of(w, [1, 0], [2, 6], 1)], False)
    assert in_turn[-1].end_s == 18


def test_a_wave_without_messages_runs_on_between_those_of_another():
    silent = [p for p in wave_of(1, [1, 0], [2, 0], 0) if p.pair_bytes is None]
    phases = timed(*interleaved([wave_of(0, [1, 0], [3, 3], 4), silent]))
    spans = {(p.wave, p.name): (p.start_s, p.end_s) for p in phases}
    assert [(p.wave, p.name) for p in phases[:4]] == [
        (0, "trunk"),
        (0, "dispatch"),
        (1, "trunk"),
        (1, "lanes"),
    ]
    assert (spans[0, "dispatch"], spans[1, "lanes"]) == ((1, 5), (2, 4))


def test_exchanges_in_which_nothing_moves_are_left_out(random_step):
    step = replace(random_step(0, num_devices=2), num_waves=3)
    schedule = step.schedule.copy()
    held = np.array(step.placement.subnet_device) == step.placement.owner[0]
    schedule[:, 0] = np.where(held, Operation.FORWARD_ONLY, Operation.SHORTCUT)
    phases = replace(step, schedule=schedule).predicted(overlap=True).phases
    moving = [p for p in phases if p.pair_bytes is not None]
    assert moving
    assert all(p.pair_bytes.any() for p in moving)
    assert all(p.wave > 0 for p in moving)


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_one_wave_is_the_bulk_synchronous_step(random_step, seed):
    step = replace(random_step(seed), num_waves=1)
    bulk, overlapped = step.predicted(), step.predicted(overlap=True)
    assert overlapped.step_s == bulk.step_s
    for a, b in zip(bulk.phases, overlapped.phases, strict=True):
        for field in fields(Phase):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))


@settings(deadline=None, max_examples=80)
@given(seed=seeds, num_waves=st.integers(1, 3))
def test_bounds(random_step, seed, num_waves):
    step = replace(random_step(seed), num_waves=num_waves)
    overlapped = step.predicted(overlap=True)
    step_s = overlapped.step_s * (1 + 1e-9)
    assert step_s >= overlapped.device_busy_s.max()
    for sums in (False, True):
        moving = [p for p in overlapped.phases if p.pair_bytes is not None and p.is_sum == sums]
        assert step_s >= sum(p.alone_s for p in moving)
    for wave in range(num_waves):
        chain = [
            p
            for p in overlapped.phases
            if not p.is_sum and (p.wave == wave or p.direction == "update")
        ]
        assert step_s >= sum(
            p.duration_s if p.device_s is None else p.device_s.max() for p in chain
        )
    bulk = step.predicted()
    more_exposed_s = overlapped.exposed_sums_s - bulk.exposed_sums_s
    assert overlapped.step_s <= bulk.step_s * (1 + 1e-9) + more_exposed_s
    whole = replace(step, num_waves=1).predicted()
    assert overlapped.exchange_bytes == pytest.approx(whole.exchange_bytes)
    assert overlapped.flops == whole.flops
    np.testing.assert_array_equal(overlapped.peak_memory_bytes, whole.peak_memory_bytes)
    assert (overlapped.is_overlapped, whole.is_overlapped) == (num_waves > 1, False)


@settings(deadline=None, max_examples=80)
@given(seed=seeds, num_waves=st.integers(2, 3))
def test_devices_and_network_do_one_thing_at_a_time_and_waves_go_in_order(
    random_step, seed, num_waves
):
    step = replace(random_step(seed), num_waves=num_waves)
    prediction = step.predicted(overlap=True)
    rows = prediction.timeline()
    rows["is_sum"] = rows["phase"] == "gradient sum"
    for _, used in rows.groupby(["resource", "is_sum"]):
        spans = used.sort_values(["start_s", "end_s"])[["start_s", "end_s"]].to_numpy()
        assert (spans[1:, 0] >= spans[:-1, 1] * (1 - 1e-12)).all()
    for wave in range(num_waves):
        of_wave = [p for p in prediction.phases if p.wave == wave and not p.is_sum]
        for earlier, later in pairwise(of_wave):
            assert later.start_s >= earlier.end_s * (1 - 1e-12)
    update = next(p for p in prediction.phases if p.direction == "update")
    before = [p.end_s for p in prediction.phases if p.direction != "update"]
    assert update.start_s >= max(before) * (1 - 1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=seeds, factor=st.floats(1, 10))
def test_faster_devices_never_lengthen_overlapped_waves(random_step, seed, factor):
    step = replace(random_step(seed), num_waves=3)
    rng = np.random.default_rng(seed)
    devices = list(step.cluster.devices)
    picked = int(rng.integers(len(devices)))
    devices[picked] = devices[picked].scaled(compute=factor, memory_bandwidth=factor)
    faster = step.on(replace(step.cluster, devices=tuple(devices)), overlap=True)
    assert faster.step_s <= step.predicted(overlap=True).step_s * (1 + 1e-9)
