"""Costs of training adapters alone: FLOPs against loops over cells, parameters, memory, file."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.flops import operation_flops, step_flops, trunk_flops
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved
from d2ft_sched.costs.parameters import (
    device_parameters,
    trained_device_parameters,
    trained_parameters,
)
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import to_counts
from d2ft_sched.plan.plan_file import dump_plan, parse_plan
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule

RANK = 3


def workload_of(
    heads_per_subnet: int = 1, rank: int | None = RANK, samples: tuple[int, ...] = (2, 3, 1)
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
        layer_scale=True,
    )
    lora = None if rank is None else Lora(rank, 6.0)
    return Workload(shape, partition_by_heads(shape, heads_per_subnet), samples, lora=lora)


def dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)


def slow_step_flops(workload: Workload, schedule: np.ndarray, device: list[int]) -> float:
    """Product by product and micro-batch by micro-batch."""
    shape, partition, r = workload.shape, workload.partition, RANK
    width = shape.width
    total = 0.0
    for i, samples in enumerate(workload.microbatch_samples):
        if (schedule[:, i] == Operation.SHORTCUT).all() and (schedule != Operation.SHORTCUT).any():
            continue
        tokens = samples * shape.num_tokens
        total += samples * (shape.embed_flops + 3 * shape.classifier_flops)
        something_trained = False
        for block in range(shape.num_blocks):
            for is_mlp in (False, True):
                runs, trains, passes = set(), set(), set()
                for s in partition.of_block(block):
                    subnet, operation = partition.subnets[s], schedule[s, i]
                    channels = subnet.num_hidden if is_mlp else len(subnet.heads) * shape.head_dim
                    rows = channels if is_mlp else 3 * channels
                    map_in, map_out = 2 * tokens * width * rows, 2 * tokens * width * channels
                    low_in, low_out = 2 * tokens * r * rows, 2 * tokens * r * channels
                    core = 0 if is_mlp else 4 * tokens * shape.num_tokens * channels
                    if operation != Operation.SHORTCUT:
                        runs.add(device[s])
                        total += map_in + map_out + low_in + low_out + core
                    if operation == Operation.FULL:
                        trains.add(device[s])
                        total += map_out + 2 * low_in + 2 * low_out + 2.5 * core
                        total += map_in if something_trained else 0
                    if operation == Operation.REST and something_trained:
                        passes.add(device[s])
                        total += map_out + low_in + low_out + 2.5 * core + map_in
                shared = 2 * tokens * width * r
                total += 2 * shared * len(runs)
                total += shared * (2 * len(trains) + len(trains | passes))
                total += shared * len(trains | passes) if something_trained else 0
                something_trained = something_trained or bool(trains)
    return total


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_devices=st.integers(1, 3))
def test_step_flops_equal_the_slow_count(seed: int, num_devices: int) -> None:
    rng = np.random.default_rng(seed)
    workload = workload_of(int(rng.choice([1, 2, 3, 6])))
    schedule = rng.choice(4, size=(workload.num_subnets, 3), p=rng.dirichlet(np.ones(4)))
    device = rng.integers(num_devices, size=workload.num_subnets).tolist()
    placement = Placement(num_devices, tuple(device), (0, 0, 0))
    counted = step_flops(workload, schedule, placement)
    assert counted == pytest.approx(slow_step_flops(workload, schedule, device), rel=1e-12)
    if num_devices == 1:
        assert counted == step_flops(workload, schedule)


@pytest.mark.parametrize("heads_per_subnet", [1, 2, 6])
def test_operations_of_a_dense_step_add_up_to_it(heads_per_subnet: int) -> None:
    workload = workload_of(heads_per_subnet)
    trunk = trunk_flops(workload)
    lanes = operation_flops(workload)[..., Operation.FULL].sum()
    total = lanes + trunk.forward.sum() + trunk.backward.sum()
    assert step_flops(workload, dense(workload)) == pytest.approx(total, rel=1e-12)


def test_a_step_of_adapters_costs_little_more_than_two_thirds() -> None:
    full, lora = workload_of(rank=None), workload_of(rank=1)
    fraction = step_flops(lora, dense(lora)) / step_flops(full, dense(full))
    assert 0.6 < fraction < 0.75


def test_a_frozen_prefix_pays_neither_dx_nor_dw() -> None:
    workload = workload_of()
    schedule = dense(workload)
    schedule[workload.partition.block == 0] = Operation.FORWARD_ONLY
    second_only = step_flops(workload, schedule)
    forward = operation_flops(workload)[workload.partition.block == 0, :, Operation.FORWARD_ONLY]
    trunk = trunk_flops(workload)
    rest = second_only - forward.sum() - trunk.forward.sum() - trunk.backward.sum()
    # The second block is now the first that trains: it costs what the first did in the dense step.
    first = operation_flops(workload)[workload.partition.block == 0, :, Operation.FULL]
    assert rest == pytest.approx(first.sum(), rel=1e-12)


def test_rest_below_all_that_trains_is_forward_only() -> None:
    workload = workload_of()
    in_first = workload.partition.block == 0
    placement = place_round_robin(workload.partition, 3, 2)
    both = []
    for operation in (Operation.REST, Operation.FORWARD_ONLY):
        schedule = dense(workload)
        schedule[in_first] = operation
        memory = device_memory(workload, Replica(placement, 2), schedule)
        sent = plan_exchange(workload, placement, schedule).pair_bytes()
        flops = step_flops(workload, schedule, placement)
        both.append((flops, sent.tolist(), *(v.tolist() for v in vars(memory).values())))
    assert both[0] == both[1]


def test_parameters_by_hand() -> None:
    workload = workload_of(2)
    shape = workload.shape
    per_block = RANK * ((24 + 72) + (24 + 24) + (24 + 96) + (96 + 24))
    assert trained_parameters(workload) == 2 * per_block + 24 * 5 + 5
    alone = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    assert trained_device_parameters(workload, alone) == [trained_parameters(workload)]
    assert device_parameters(workload, alone) == [shape.num_parameters + 2 * per_block]
    spread = place_round_robin(workload.partition, 3, 3)
    copies = 2 * (2 * 4 * 24 * RANK + 24 * 5 + 5)
    held = trained_device_parameters(workload, spread)
    assert held.sum() == trained_parameters(workload) + copies


def test_gradients_and_optimizer_state_are_those_of_what_trains() -> None:
    workload = workload_of()
    alone = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    memory = device_memory(workload, Replica(alone), dense(workload))
    trained = 4 * trained_parameters(workload)
    assert memory.gradients == [trained]
    assert memory.optimizer_state == [2 * trained]
    full = workload_of(rank=None)
    assert memory.total < device_memory(full, Replica(alone), dense(full)).total
    assert optimizer_bytes_moved(workload, alone) == [7 * trained]
    one = np.array(1), np.array(96), np.array(5)
    moved, of_full = lane_bytes_of(workload, *one), lane_bytes_of(full, *one)
    assert moved.mlp_forward > of_full.mlp_forward
    assert moved.mlp_backward < of_full.mlp_backward


def test_kept_activations_by_hand() -> None:
    workload = workload_of(6)
    memory = device_memory(workload, Replica(Placement(1, (0, 0), (0, 0, 0))), dense(workload))
    tokens, width, hidden = 6 * 5, 24, 96
    block = (4 * width + 6) + 2 * hidden + 2 * (width + 2 * RANK)
    norms = 3  # the first block's first norm hands no gradient on
    assert memory.activations[0] == tokens * (2 * block + norms * width + 2 * width) * 4


def cluster_of(num_devices: int) -> Cluster:
    devices = tuple(Device(f"d{i}", 1e9, 10**12, 1e12) for i in range(num_devices))
    return Cluster("c", devices)


def test_a_plan_file_carries_the_adapters() -> None:
    workload = workload_of()
    plan = make_plan(
        deploy(workload, cluster_of(1)),
        uniform_scores(workload.num_subnets, 3),
        Budget(compute=0.6),
    )
    again = parse_plan(dump_plan(plan))
    assert again.workload == workload
    assert again.workload.lora == Lora(RANK, 6.0)
    plain = replace(plan, workload=replace(workload, lora=None))
    assert parse_plan(dump_plan(plain)).workload.lora is None


def test_the_dense_step_in_closed_form_prices_adapters() -> None:
    workload = workload_of(2)
    cluster = cluster_of(1)
    step = DenseStep(workload, cluster, (0,))
    placement = Placement(1, (0,) * workload.num_subnets, (0, 0, 0))
    seconds = step.seconds(to_counts(step, placement), (0, 0, 0))
    tokens = int(workload.tokens.sum())
    first_dx = 2 * tokens * 24 * (72 + RANK)
    flops = step_flops(workload, dense(workload)) + first_dx
    update_s = 7 * 4 * trained_parameters(workload) / 1e12
    assert seconds == pytest.approx(flops / 1e9 + update_s, rel=1e-2)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (4, 0.0), (4, float("inf"))])
def test_ranks_and_alphas_out_of_range_are_refused(rank: int, alpha: float) -> None:
    with pytest.raises(InputError, match=r"LoRA (rank|alpha) is"):
        Lora(rank, alpha)
