"""Cuts of schedules into rectangles: whole, cheapest, and the two extremes."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.lanes.lane_groups import LaneGroups, lane_groups
from d2ft_sched.costs.lanes.lane_seconds import lane_seconds
from d2ft_sched.cutting.exact_covers import candidate_sets, cheapest_cover
from d2ft_sched.cutting.item_kinds import item_kinds
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from lane_devices import LAUNCH_BOUND, MERGING_DEVICES


def workload_of(num_heads: int, samples: tuple[int, ...]) -> Workload:
    shape = ModelShape(
        "m", 2, num_heads, head_dim=8, width=16, mlp_hidden=3 * num_heads + 1, num_tokens=5
    )
    return Workload(shape, partition_by_heads(shape, 1), samples)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, Placement, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = tuple(rng.integers(1, 4, draw(st.integers(1, 9))).tolist())
    workload = workload_of(draw(st.sampled_from([1, 2, 5, 6, 13])), samples)
    num_devices, num = draw(st.integers(1, 3)), workload.num_subnets
    placement = Placement(
        num_devices, tuple(rng.integers(0, num_devices, num).tolist()), (0,) * len(samples)
    )
    schedule = rng.choice(4, size=(num, len(samples)), p=rng.dirichlet(np.ones(4)))
    if draw(st.booleans()):
        schedule = schedule[:, rng.integers(0, len(samples), len(samples))]
    return (
        workload,
        placement,
        schedule.astype(np.int8),
        np.flatnonzero(rng.random(len(samples)) < 0.8),
    )


def seconds_of(workload: Workload, devices: list[Device], groups: LaneGroups) -> float:
    return float(lane_seconds(workload, devices, groups.sizes, is_trial=True).sum())


@settings(deadline=None, max_examples=80)
@given(cases(), st.sampled_from(MERGING_DEVICES))
def test_groups_have_every_cell_once_and_are_no_dearer_than_either_extreme(case, device):
    workload, placement, schedule, microbatches = case
    devices = [device] * placement.num_devices
    groups = lane_groups(workload, placement, schedule, microbatches, devices)
    found = np.zeros_like(schedule)
    for block in range(2):
        for d in range(placement.num_devices):
            for group in groups.at(d, block):
                assert {placement.subnet_device[s] for s in group.subnets} == {d}
                assert group.cells.any()
                found[np.ix_(group.subnets, group.microbatches)] += group.cells
    expected = np.zeros_like(schedule)
    expected[:, microbatches] = schedule[:, microbatches]
    np.testing.assert_array_equal(found, expected)
    if device is None:
        assert not groups.sizes.is_masked.any()
        return
    found_s = seconds_of(workload, devices, groups)
    for other in (None, LAUNCH_BOUND):
        extreme = lane_groups(
            workload, placement, schedule, microbatches, [other] * placement.num_devices
        )
        if placement.num_devices == 1 and len(microbatches) <= 6 and len(schedule) <= 12:
            assert found_s <= seconds_of(workload, devices, extreme) * (1 + 1e-6)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_where_launches_cost_most_a_block_of_a_device_is_one_group(case):
    workload, placement, schedule, microbatches = case
    alone = Placement(1, (0,) * workload.num_subnets, placement.owner)
    groups = lane_groups(workload, alone, schedule, microbatches, [LAUNCH_BOUND])
    sites = set(zip(groups.device.tolist(), groups.block.tolist(), strict=True))
    assert len(groups.device) == len(sites)


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for i in range(len(rest)):
            yield [*rest[:i], [items[0], *rest[i]], *rest[i + 1 :]]


@pytest.mark.parametrize("num_items", [1, 2, 4, 6])
def test_a_cover_of_few_items_is_the_cheapest_of_all(num_items: int) -> None:
    sets = candidate_sets(num_items)
    prices = np.random.default_rng(num_items).random((3, len(sets))) ** 3
    numbers = {frozenset(np.flatnonzero(own).tolist()): i for i, own in enumerate(sets)}
    chosen = cheapest_cover(prices, num_items)
    for own, is_chosen in zip(prices, chosen, strict=True):
        best = min(
            sum(own[numbers[frozenset(part)]] for part in whole)
            for whole in partitions(list(range(num_items)))
        )
        assert own[is_chosen].sum() == pytest.approx(best)
        assert (sets[is_chosen].sum(axis=0) == 1).all()


def test_a_cover_of_many_items_is_one_of_stretches() -> None:
    sets = candidate_sets(12)
    prices = np.random.default_rng(0).random((4, len(sets)))
    for is_chosen in cheapest_cover(prices, 12):
        assert (sets[is_chosen].sum(axis=0) == 1).all()


@pytest.mark.parametrize(("num_others", "num_items"), [(1, 40), (3, 33), (17, 50), (40, 90)])
def test_many_items_that_are_alike_are_a_kind(num_others: int, num_items: int) -> None:
    rng = np.random.default_rng(num_others)
    some = rng.integers(0, 4, (3, num_others, 7)).astype(np.int8)
    cells = some[:, :, rng.integers(0, 7, num_items)]
    for site, kinds in zip(cells, item_kinds(cells), strict=True):
        numbers: dict[bytes, int] = {}
        columns = [column.tobytes() for column in site.T]
        assert kinds.tolist() == [numbers.setdefault(c, len(numbers)) for c in columns]


@pytest.mark.parametrize("num_kinds", [2, 5, 20, 70])
def test_groups_of_very_many_microbatches_have_every_cell_once(num_kinds: int) -> None:
    rng = np.random.default_rng(num_kinds)
    workload = workload_of(6, (1,) * 70)
    placement = Placement(2, tuple(rng.integers(0, 2, 12).tolist()), (0,) * 70)
    schedule = rng.integers(0, 4, (12, num_kinds)).astype(np.int8)[:, np.arange(70) % num_kinds]
    for device in (None, LAUNCH_BOUND):
        groups = lane_groups(workload, placement, schedule, np.arange(70), [device] * 2)
        found = np.zeros_like(schedule)
        for block, d in itertools.product(range(2), range(2)):
            for group in groups.at(d, block):
                found[np.ix_(group.subnets, group.microbatches)] += group.cells
        np.testing.assert_array_equal(found, schedule)
