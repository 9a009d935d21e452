"""Memory of a step: the parts, their sum, and what schedules, waves and devices change."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.costs.activation_memory import operation_activation_bytes
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of
from d2ft_sched.costs.memory import device_memory, memory_besides_operations
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved, trunk_bytes_moved
from d2ft_sched.costs.parameters import device_parameters, subnet_parameters
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.waves import wave_microbatches


def small_workload(
    heads_per_subnet: int = 1, samples: tuple[int, ...] = (2, 3, 1), layer_scale: bool = False
) -> Workload:
    shape = vision_transformer_shape(
        "small",
        image_size=28,
        patch_size=14,
        width=24,
        num_blocks=2,
        num_heads=6,
        mlp_hidden=96,
        num_classes=5,
        layer_scale=layer_scale,
    )
    return Workload(shape, partition_by_heads(shape, heads_per_subnet), samples)


def dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)


def test_subnets_and_trunk_hold_every_parameter_once() -> None:
    workload = small_workload(2)
    alone = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    assert device_parameters(workload, alone) == [workload.shape.num_parameters]
    spread = place_round_robin(workload.partition, 3, 3)
    trunk = workload.shape.trunk_parameters
    held = device_parameters(workload, spread)
    assert held.sum() == workload.shape.num_parameters + 2 * trunk
    assert subnet_parameters(workload).sum() == workload.shape.num_parameters - trunk


def test_a_device_without_micro_batches_holds_no_trunk_and_no_images() -> None:
    workload = small_workload(2)
    placement = Placement(2, (0, 0, 1) * 2, (0, 0, 0))
    memory = device_memory(workload, Replica(placement), dense(workload))
    assert memory.parameters[1] == 4 * subnet_parameters(workload)[[2, 5]].sum()
    assert memory.inputs[1] == 0
    assert memory.inputs[0] == 6 * 3 * 28 * 28 * 4


def test_dense_activations_by_hand() -> None:
    workload = small_workload(6)
    memory = device_memory(workload, Replica(Placement(1, (0, 0), (0, 0, 0))), dense(workload))
    tokens, width, hidden = 6 * 5, 24, 96
    attention = 3 * width + width + 6
    stream = 4 * width
    per_token = 2 * (attention + 2 * hidden + stream) + 2 * width
    assert memory.activations[0] == tokens * per_token * 4


def test_layer_scale_keeps_both_branches() -> None:
    plain, scaled = small_workload(6), small_workload(6, layer_scale=True)
    placement = Placement(1, (0, 0), (0, 0, 0))
    kept = [device_memory(w, Replica(placement), dense(w)).activations[0] for w in (plain, scaled)]
    assert kept[1] - kept[0] == 2 * 2 * plain.activation_bytes.sum()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), num_devices=st.integers(1, 4), num_waves=st.integers(1, 3))
def test_total_lies_between_what_stays_and_the_sum_of_all_parts(
    seed: int, num_devices: int, num_waves: int
) -> None:
    rng = np.random.default_rng(seed)
    workload = small_workload(int(rng.choice([1, 2, 3])), layer_scale=bool(rng.integers(2)))
    placement = Placement(
        num_devices,
        tuple(int(d) for d in rng.integers(num_devices, size=workload.num_subnets)),
        tuple(int(d) for d in rng.integers(num_devices, size=3)),
    )
    schedule = rng.integers(4, size=(workload.num_subnets, 3))
    memory = device_memory(workload, Replica(placement, num_waves), schedule)
    stays = memory.parameters + memory.optimizer_state + memory.inputs
    assert (memory.total >= stays + memory.gradients).all()
    assert (memory.total >= stays + memory.activations).all()
    parts = memory.gradients + memory.activations + memory.workspace + memory.exchange_buffers
    copied = memory.parameters + memory.optimizer_state  # at most, of what rests, in the update
    assert (memory.total <= stays + parts + np.maximum(memory.gradients, copied)).all()

    resting = np.where(schedule == Operation.FULL, Operation.REST, schedule)
    rested = device_memory(workload, Replica(placement, num_waves), resting)
    assert (rested.activations <= memory.activations).all()
    assert (rested.gradients <= memory.gradients).all()
    run_less = np.where(rng.random(schedule.shape) < 0.3, Operation.SHORTCUT, schedule)
    less = device_memory(workload, Replica(placement, num_waves), run_less)
    assert (less.activations <= memory.activations).all()


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_devices=st.integers(1, 4),
    num_waves=st.integers(1, 3),
    lora=st.sampled_from([None, Lora(2, 4.0)]),
    leaves_out=st.booleans(),
)
def test_no_schedule_needs_more_than_dense_or_than_what_is_always_left_and_its_operations(
    seed: int, num_devices: int, num_waves: int, lora: Lora | None, leaves_out: bool
) -> None:
    rng = np.random.default_rng(seed)
    workload = small_workload(int(rng.choice([1, 2, 3])), layer_scale=bool(rng.integers(2)))
    workload = replace(workload, lora=lora)
    device = rng.integers(num_devices, size=workload.num_subnets)
    owner = rng.integers(num_devices, size=3)
    placement = Placement(num_devices, tuple(device.tolist()), tuple(owner.tolist()))
    schedule = rng.choice(4, size=(workload.num_subnets, 3), p=rng.dirichlet([1, 1, 1, 1]))
    if leaves_out:
        schedule[:, rng.integers(3)] = Operation.SHORTCUT
    total = device_memory(workload, Replica(placement, num_waves), schedule).total
    besides = memory_besides_operations(workload, Replica(placement, num_waves))
    largest = device_memory(workload, Replica(placement, num_waves), dense(workload)).total
    assert (total <= np.maximum(largest, besides)).all()
    of_each = operation_activation_bytes(workload)
    kept = np.take_along_axis(of_each, schedule[..., None], axis=2)[..., 0]
    fullest = np.max(
        [
            np.bincount(device, kept[:, wave].sum(axis=1), minlength=num_devices)
            for wave in wave_microbatches(3, num_waves)
        ],
        axis=0,
    )
    assert (total <= besides + fullest).all()


def test_waves_divide_activations() -> None:
    workload = small_workload(1, samples=(2, 2, 2))
    placement = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    one, three = (device_memory(workload, Replica(placement, n), dense(workload)) for n in (1, 3))
    assert three.activations[0] == pytest.approx(one.activations[0] / 3)


def test_operation_activation_bytes_add_up_to_what_lanes_keep() -> None:
    workload = small_workload(2)
    kept = operation_activation_bytes(workload).sum(axis=(0, 1))
    tokens, width, hidden = 6 * 5, 24, 96
    attention = 4 * width + 6
    full, rest = (2 * tokens * (attention + n * hidden) * 4 for n in (2, 1))
    assert kept.tolist() == [0, 0, full, rest]


def test_a_block_that_rests_has_no_gradients_and_keeps_what_its_input_gradient_needs() -> None:
    workload = small_workload(2)
    one = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    schedule = dense(workload)
    schedule[workload.partition.block == 1] = Operation.REST
    full, rested = (device_memory(workload, Replica(one), s) for s in (dense(workload), schedule))
    assert full.parameters == rested.parameters
    assert full.optimizer_state == rested.optimizer_state
    in_block = 4 * subnet_parameters(workload)[:3].sum()
    assert full.gradients - rested.gradients == [in_block]
    tokens, width, hidden = 6 * 5, 24, 96
    assert full.activations - rested.activations == [4 * tokens * (2 * width + hidden)]
    trains = np.array([True] * 3 + [False] * 3)
    moved = optimizer_bytes_moved(workload, one, trains)
    assert optimizer_bytes_moved(workload, one) - moved == [7 * in_block]


def test_gradients_of_what_only_another_replica_trains_are_held_too() -> None:
    workload = small_workload(2)
    one = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    rested = uniform_schedule(workload.num_subnets, 3, Operation.REST)
    trains = np.array([False] * 4 + [True] * 2)
    memory = device_memory(workload, Replica(one), rested, trains=trains)
    of_block = 4 * subnet_parameters(workload)[3:].sum()
    assert memory.gradients == [of_block + 4 * workload.shape.trunk_parameters]


def test_bytes_moved_follow_samples_and_parameters() -> None:
    workload = small_workload(2, samples=(2, 4))
    trunk = trunk_bytes_moved(workload)
    lanes = lane_bytes_of(workload, np.array(1), np.array(24), workload.tokens)
    assert trunk.forward[1] == 2 * trunk.forward[0]
    assert trunk.backward[1] == 2 * trunk.backward[0]
    for moved in (lanes.attention_forward, lanes.attention_backward, lanes.mlp_backward):
        assert moved[0] < moved[1] < 2 * moved[0]
    alone = Placement(1, (0,) * workload.num_subnets, (0, 0))
    adamw = optimizer_bytes_moved(workload, alone)
    assert adamw == [workload.shape.num_parameters * 4 * 7]


def test_a_block_without_an_operation_has_no_norm_but_one_that_stands_last() -> None:
    workload = small_workload(samples=(2, 2, 2))
    every, some = trunk_bytes_moved(workload), trunk_bytes_moved(workload, np.array([2, 1, 0]))
    for full, moved in ((every.forward, some.forward), (every.backward, some.backward)):
        assert moved[0] == full[0]
        assert moved[0] - moved[1] == pytest.approx(moved[1] - moved[2])
        assert 0 < moved[2] < moved[0]
    post_norm = replace(workload, shape=replace(workload.shape, norm_first=False))
    idle = trunk_bytes_moved(post_norm, np.zeros(3, dtype=int))
    assert (idle.forward == trunk_bytes_moved(post_norm).forward).all()
