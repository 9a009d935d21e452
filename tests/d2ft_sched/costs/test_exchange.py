"""The exchange against a message-by-message count."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.exchange import operation_message_bytes, plan_exchange
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement

SHAPE = ModelShape("m", num_blocks=3, num_heads=4, head_dim=2, width=8, mlp_hidden=16, num_tokens=5)
PARTITION = partition_by_heads(SHAPE, 1)


@st.composite
def cases(draw):
    num_devices = draw(st.integers(1, 5))
    samples = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    workload = Workload(SHAPE, PARTITION, samples)
    placement = Placement(
        num_devices,
        tuple(rng.integers(0, num_devices, len(PARTITION)).tolist()),
        tuple(rng.integers(0, num_devices, len(samples)).tolist()),
    )
    schedule = rng.integers(0, 4, (len(PARTITION), len(samples))).astype(np.int8)
    return workload, placement, schedule


def bytes_message_by_message(workload, placement, schedule):
    """[source, target] bytes: each device gets one dispatch and sends one combine per sub-layer."""
    total = np.zeros((placement.num_devices,) * 2, dtype=np.int64)
    for block in range(SHAPE.num_blocks):
        for i, samples in enumerate(workload.microbatch_samples):
            owner = placement.owner[i]
            message = samples * SHAPE.num_tokens * SHAPE.width * 4
            for device in range(placement.num_devices):
                mine = [
                    schedule[s, i]
                    for s in workload.partition.of_block(block)
                    if placement.subnet_device[s] == device
                ]
                passes = any(op != Operation.SHORTCUT for op in mine)
                passes += Operation.FULL in mine or Operation.REST in mine
                if device != owner:
                    total[owner, device] += 2 * passes * message
                    total[device, owner] += 2 * passes * message
    return total


@settings(deadline=None)
@given(cases())
def test_bytes_equal_a_count_of_messages(case):
    workload, placement, schedule = case
    exchange = plan_exchange(workload, placement, schedule)
    expected = bytes_message_by_message(workload, placement, schedule)
    np.testing.assert_array_equal(exchange.pair_bytes(), expected)
    assert exchange.total_bytes() == expected.sum()


@settings(deadline=None)
@given(cases())
def test_the_additive_cost_is_an_upper_bound_and_exact_without_sharing(case):
    workload, placement, schedule = case
    cost = operation_message_bytes(workload, placement)
    as_charged = np.minimum(schedule, Operation.FULL)[..., None].astype(int)
    charged = np.take_along_axis(cost, as_charged, axis=-1).sum()
    exchanged = plan_exchange(workload, placement, schedule).total_bytes()
    assert exchanged <= charged
    pairs = set(zip(PARTITION.block.tolist(), placement.subnet_device, strict=True))
    if len(pairs) == len(PARTITION):
        assert exchanged == charged


def test_forward_only_moves_half_the_bytes_of_full():
    workload = Workload(SHAPE, PARTITION, (2, 2))
    placement = Placement(3, (1,) * len(PARTITION), (0, 2))
    totals = [
        plan_exchange(workload, placement, np.full((len(PARTITION), 2), op)).total_bytes()
        for op in Operation
    ]
    assert totals[0] == 0
    assert totals[2] == 2 * totals[1] == 8 * SHAPE.num_blocks * 2 * (2 * 5 * 8 * 4)


@settings(deadline=None)
@given(cases())
def test_what_devices_send_and_receive_are_the_sums_of_the_dispatches(case):
    exchange = plan_exchange(*case)
    sent, received = exchange.sent_bytes(), exchange.received_bytes()
    for direction in (0, 1):
        for block in range(SHAPE.num_blocks):
            dispatch = exchange.dispatch_bytes(direction, block)
            np.testing.assert_array_equal(sent[direction, block], dispatch.sum(axis=1))
            np.testing.assert_array_equal(received[direction, block], dispatch.sum(axis=0))
