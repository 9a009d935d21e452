"""Sums of gradients against a count of every parameter's holders, one by one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.gradient_sums import EMBEDDING, gradient_sums, trained_trunk_values
from d2ft_sched.costs.parameters import (
    shared_block_parameters,
    trained_parameters,
    trained_trunk_parameters,
)
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.model.shape import ModelShape, bert_shape, vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule

SHAPE = vision_transformer_shape(
    "small",
    image_size=28,
    patch_size=14,
    width=24,
    num_blocks=3,
    num_heads=6,
    mlp_hidden=31,
    num_classes=5,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, list[Replica], np.ndarray]:
    """Replicas of random devices, random cuts, owners and schedules."""
    num_replicas = draw(st.integers(1, 3))
    num_microbatches = draw(st.integers(num_replicas, 5))
    sizes = draw(st.sampled_from([(1,) * 6, (3, 3), (1, 5)]))
    partition = partition_by_heads(SHAPE, sizes)
    lora = draw(st.sampled_from([None, Lora(2, 4.0)]))
    norm_first = draw(st.booleans())
    shape = replace(SHAPE, norm_first=norm_first, layer_scale=draw(st.booleans()))
    workload = Workload(shape, partition, (2,) * num_microbatches, lora=lora)
    num_devices = draw(st.integers(num_replicas, 6))
    devices = draw(st.permutations(range(num_devices)))
    groups = np.array_split(np.array(devices), num_replicas)
    dealt = np.array_split(np.arange(num_microbatches), num_replicas)
    replicas = []
    for group, own in zip(groups, dealt, strict=True):
        of_group = st.sampled_from(group.tolist())
        held = draw(st.lists(of_group, min_size=len(partition), max_size=len(partition)))
        owner = draw(st.lists(of_group, min_size=len(own), max_size=len(own)))
        replicas.append(Replica(Placement(num_devices, tuple(held), tuple(owner))))
    operations = st.lists(
        st.sampled_from(list(Operation)), min_size=num_microbatches, max_size=num_microbatches
    )
    rows = draw(st.lists(operations, min_size=len(partition), max_size=len(partition)))
    return workload, replicas, np.array(rows)


def unit_holders(
    workload: Workload, replicas: list[Replica], schedule: np.ndarray
) -> dict[tuple[int, str, int], set[int]]:
    """Devices with each head, hidden unit and set of shared factors that trains in the step."""
    holders: dict[tuple[int, str, int], set[int]] = {}
    for index, subnet in enumerate(workload.partition.subnets):
        if Operation.FULL not in schedule[index]:
            continue
        for replica in replicas:
            device = replica.placement.subnet_device[index]
            for head in subnet.heads:
                holders.setdefault((subnet.block, "head", head), set()).add(device)
            for unit in range(subnet.hidden_start, subnet.hidden_stop):
                holders.setdefault((subnet.block, "hidden", unit), set()).add(device)
            if workload.lora is not None:
                own = {
                    replica.placement.subnet_device[s]
                    for s in workload.partition.of_block(subnet.block)
                }
                holders.setdefault((subnet.block, "shared", 0), set()).update(own)
    return holders


@given(cases())
@settings(max_examples=60, deadline=None)
def test_every_parameter_is_summed_over_its_holders_once(
    case: tuple[Workload, list[Replica], np.ndarray],
) -> None:
    workload, replicas, schedule = case
    sums = gradient_sums(workload, replicas, schedule)
    assert [s.block for s in sums] == sorted((s.block for s in sums), reverse=True)
    assert len({(s.block, s.members) for s in sums}) == len(sums)
    found: dict[tuple[int, str, int], set[int]] = {}
    for one in sums:
        assert list(one.members) == sorted(one.members)
        assert len(one.members) > 1
        units = [("head", h) for h in one.heads] + [("hidden", u) for u in one.hidden]
        for kind, unit in units + [("shared", 0)] * one.has_shared_factors:
            assert found.setdefault((one.block, kind, unit), set(one.members)) == set(one.members)
    assert found == {
        key: devices
        for key, devices in unit_holders(workload, replicas, schedule).items()
        if len(devices) > 1
    }
    owners = {owner for r in replicas for owner in r.placement.owner}
    with_trunk = [s.block for s in sums if s.has_trunk]
    values = trained_trunk_values(workload)
    if len(owners) > 1:
        assert with_trunk == [b for b in (3, 2, 1, 0, EMBEDDING) if values[b]]
        assert all(set(s.members) == owners for s in sums if s.has_trunk)
    else:
        assert not with_trunk
    lora = workload.lora
    head = lora.head_parameters(SHAPE) if lora else SHAPE.head_parameters
    hidden = lora.hidden_unit_parameters(SHAPE) if lora else SHAPE.hidden_unit_parameters
    for one in sums:
        assert one.num_values == (
            len(one.heads) * head
            + len(one.hidden) * hidden
            + values[one.block] * one.has_trunk
            + shared_block_parameters(workload) * one.has_shared_factors
        )


@pytest.mark.parametrize("lora", [None, Lora(2, 4.0)])
def test_data_parallel_sums_all_that_trains_in_one_bucket_per_block(lora: Lora | None) -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 2), (3, 4, 2), lora=lora)
    replicas = [Replica(Placement(4, (d,) * workload.num_subnets, (d,))) for d in (3, 0, 1)]
    schedule = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    sums = gradient_sums(workload, replicas, schedule)
    assert [s.block for s in sums] == [3, 2, 1, 0] + ([EMBEDDING] if lora is None else [])
    assert all(s.members == (0, 1, 3) for s in sums)
    assert sum(s.num_values for s in sums) == trained_parameters(workload)


def test_a_subnet_that_rests_everywhere_is_not_sent_and_one_that_rests_somewhere_is() -> None:
    workload = Workload(SHAPE, partition_by_heads(SHAPE, 3), (2, 2))
    replicas = [Replica(Placement(2, (d,) * workload.num_subnets, (d,))) for d in (0, 1)]
    schedule = uniform_schedule(workload.num_subnets, 2, Operation.REST)
    schedule[3, 1] = Operation.FULL
    of_blocks = [s for s in gradient_sums(workload, replicas, schedule) if 0 <= s.block < 3]
    assert [s.heads.tolist() for s in of_blocks] == [[], [3, 4, 5], []]
    assert [s.hidden.tolist() for s in of_blocks] == [[], list(range(15, 31)), []]


def test_parts_cut_differently_form_a_sum_for_each_set_of_holders() -> None:
    subnets = [Subnet(0, (0,), 0, 2), Subnet(0, (1,), 2, 4), Subnet(0, (2,), 4, 6)]
    shape = ModelShape("m", 1, 3, 8, 24, 6, 5)
    workload = Workload(shape, Partition(tuple(subnets), 1, 3, 6), (1, 1))
    replicas = [Replica(Placement(3, (0, 0, 1), (0,))), Replica(Placement(3, (2, 2, 2), (2,)))]
    schedule = uniform_schedule(3, 2, Operation.FULL)
    sums = gradient_sums(workload, replicas, schedule)
    assert [(s.members, s.heads.tolist()) for s in sums] == [((0, 2), [0, 1]), ((1, 2), [2])]


@given(
    width=st.integers(1, 40),
    trunk=st.integers(0, 2000),
    classifier=st.integers(0, 2000),
    layer_scale=st.booleans(),
    norm_first=st.booleans(),
    lora=st.booleans(),
)
def test_trunk_of_blocks_end_and_embedding_is_all_of_the_trunk(
    width: int, trunk: int, classifier: int, layer_scale: bool, norm_first: bool, lora: bool
) -> None:
    shape = ModelShape(
        "m", 3, 2, 4, width, 6, 5, trunk_parameters=trunk + classifier,
        classifier_parameters=classifier, layer_scale=layer_scale, norm_first=norm_first,
    )  # fmt: skip
    adapters = Lora(1, 1.0) if lora else None
    workload = Workload(shape, partition_by_heads(shape), (1,), lora=adapters)
    values = trained_trunk_values(workload)
    assert values.sum() == trained_trunk_parameters(workload)
    assert (values >= 0).all()


def test_the_parts_of_the_trunk_of_real_models() -> None:
    vit = SHAPE
    assert vit.block_trunk_parameters == 2 * 2 * 24 + 2 * 24
    assert vit.end_trunk_parameters == 2 * 24 + 25 * 5
    embedding = vit.trunk_parameters - 3 * vit.block_trunk_parameters - vit.end_trunk_parameters
    assert embedding == 14 * 14 * 3 * 24 + 24 + 24 + 5 * 24
    bert = bert_shape(
        "b", num_tokens=8, width=24, num_blocks=2, num_heads=3, mlp_hidden=48,
        vocabulary_size=100, num_positions=16, num_classes=4,
    )  # fmt: skip
    assert bert.end_trunk_parameters == 25 * 4
    assert bert.trunk_parameters - 2 * 6 * 24 - 100 == (100 + 16 + 2 + 2) * 24
