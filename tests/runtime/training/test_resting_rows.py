"""Updates that leave what rests alone: against a reference by elements, and bit by bit."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d2ft_sched.model.partition import Partition, Subnet
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from masked_operations import SHARES, random_schedule
from rank_cases import LORA, small_bert, small_model
from runtime.families.known_families import family_of
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.build import shape_of
from runtime.models.optimizers import create_optimizer
from runtime.models.peft_adapters import add_adapters
from runtime.partitioned_step import forward_backward
from runtime.ranks.shards import rank_shards, whole_shards
from runtime.training.resting_rows import resting, update

SAMPLES = (2, 1, 2)


def case(family: str) -> tuple[nn.Module, Workload]:
    """A small model, with adapters if its name says so; its subnets are unequal and scattered."""
    model = small_bert() if "bert" in family else small_model(0.3)
    shape = shape_of(model)
    half = shape.mlp_hidden // 2
    subnets = [
        subnet
        for block in range(shape.num_blocks)
        for subnet in (
            Subnet(block, (0, 2), 0, half - 3),
            Subnet(block, (), half - 3, half),
            Subnet(block, (3,), half, shape.mlp_hidden),
            Subnet(block, (1,), shape.mlp_hidden, shape.mlp_hidden),
        )
    ]
    partition = Partition(tuple(subnets), shape.num_blocks, shape.num_heads, shape.mlp_hidden)
    lora = LORA if "lora" in family else None
    if lora is not None:
        add_adapters(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
    return model, Workload(shape, partition, SAMPLES, 8, 8, lora=lora)


def trained_mask(name: str, parameter: Tensor, workload: Workload, trains: np.ndarray) -> Tensor:
    """Which elements of a parameter train, by the names that libraries give them."""
    everything, nothing = torch.ones_like(parameter), torch.zeros_like(parameter)
    block = re.search(r"(?:blocks|layer)\.(\d+)\.", name)
    map_in = re.search(r"(qkv|query|key|value|fc1|intermediate\.dense)\b", name)
    map_out = re.search(r"(attn\.proj|attention\.output\.dense|fc2|output\.dense)\b", name)
    if block is None or not (map_in or (map_out and not name.endswith("bias"))):
        return everything
    found = (map_in or map_out)[1]
    is_mlp = any(part in found for part in ("fc1", "fc2", "intermediate")) or (
        found == "output.dense"
    )
    num_units = workload.shape.mlp_hidden if is_mlp else workload.shape.num_heads
    unit = np.zeros(num_units, dtype=bool)
    for subnet, does in zip(workload.partition.subnets, trains, strict=True):
        if subnet.block == int(block[1]) and does:
            own = range(subnet.hidden_start, subnet.hidden_stop) if is_mlp else subnet.heads
            unit[list(own)] = True
    if ("lora_A" in name and map_in) or ("lora_B" in name and map_out):
        return everything if unit.any() else nothing
    if not is_mlp:
        unit = np.tile(np.repeat(unit, workload.shape.head_dim), 3 if found == "qkv" else 1)
    rows = torch.from_numpy(unit).to(parameter.dtype)
    if map_out:
        return rows[None, :].expand_as(parameter)
    return rows.view(-1, *[1] * (parameter.dim() - 1)).expand_as(parameter)


def adamw_by_element(
    parameter: Tensor, gradient: Tensor, mask: Tensor, state: dict[str, Tensor], group: dict
) -> None:
    """One update of the elements in `mask`; the count of updates is the parameter's."""
    if not mask.any():
        return
    state["step"] = state.get("step", 0) + 1
    betas, new = group["betas"], {}
    for value, beta, of in (("m", betas[0], gradient), ("v", betas[1], gradient * gradient)):
        old = state.get(value, torch.zeros_like(parameter))
        new[value] = beta * old + (1 - beta) * of
        state[value] = torch.where(mask.bool(), new[value], old)
    first = new["m"] / (1 - betas[0] ** state["step"])
    second = new["v"] / (1 - betas[1] ** state["step"])
    decayed = parameter * (1 - group["lr"] * group["weight_decay"])
    updated = decayed - group["lr"] * first / (second.sqrt() + group["eps"])
    parameter.copy_(torch.where(mask.bool(), updated, parameter))


def step(model: nn.Module, workload: Workload, schedule: np.ndarray) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = family_of(model).random_inputs(model, sum(SAMPLES), generator)
    labels = torch.arange(sum(SAMPLES)) % 5
    forward_backward(model, inputs, labels, slice_schedule(workload, schedule))


@pytest.mark.parametrize("family", ["vit", "vit lora", "bert", "bert lora"])
def test_five_steps_equal_adamw_of_the_trained_elements_alone(family: str) -> None:
    model, workload = case(family)
    optimizer = create_optimizer(model, lr=1e-2)
    group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    values = {name: p.detach().clone() for p, name in names.items()}
    states: dict[str, dict] = {name: {} for name in values}
    rng, size = np.random.default_rng(0), (workload.num_subnets, len(SAMPLES))
    for shares in SHARES[:2] + SHARES[4:7]:
        schedule = random_schedule(rng, size, shares)
        trains = (schedule == Operation.FULL).any(axis=1)
        trains &= rng.random(len(trains)) < 0.6
        schedule[~trains] = np.where(schedule[~trains] == 2, Operation.REST, schedule[~trains])
        step(model, workload, schedule)
        for parameter, name in names.items():
            mask = trained_mask(name, parameter, workload, trains)
            gradient = parameter.grad
            assert (gradient is None) == (not mask.any()), name
            if gradient is not None:
                assert not (gradient * (1 - mask)).any(), name
                adamw_by_element(values[name], gradient, mask, states[name], group_of[parameter])
        update(optimizer, resting(model, whole_shards(model), workload, schedule))
        optimizer.zero_grad()
        for parameter, name in names.items():
            torch.testing.assert_close(parameter.detach(), values[name], rtol=1e-9, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(["vit", "vit lora", "bert"]),
    optimizer_name=st.sampled_from(["adamw", "sgdm", "sgd"]),
    seed=st.integers(0, 999),
    shares=st.sampled_from(SHARES),
)
def test_what_rests_is_the_same_to_the_bit(
    family: str, optimizer_name: str, seed: int, shares: tuple[int, ...]
) -> None:
    model, workload = case(family)
    optimizer = create_optimizer(model, optimizer_name, lr=1e-2)
    rng, size = np.random.default_rng(seed), (workload.num_subnets, len(SAMPLES))
    for _ in range(2):
        schedule = random_schedule(rng, size, shares)
        trains = (schedule == Operation.FULL).any(axis=1)

        def state() -> dict[tuple[str, str], Tensor]:
            kept = {("", name): p for name, p in model.named_parameters()}
            for name, parameter in model.named_parameters():
                for key, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, Tensor):
                        kept[key, name] = value
            return {key: value.detach().clone() for key, value in kept.items()}

        before = state()
        step(model, workload, schedule)
        update(optimizer, resting(model, whole_shards(model), workload, schedule))
        optimizer.zero_grad()
        parameters = dict(model.named_parameters())
        for (key, name), after in state().items():
            if not parameters[name].requires_grad:
                continue
            mask = trained_mask(name, parameters[name], workload, trains)
            if key == "step":
                assert float(after) == float(before.get((key, name), 0)) + bool(mask.any())
                continue
            was = before.get((key, name), torch.zeros_like(after))
            assert torch.equal(after[mask == 0], was[mask == 0]), (key, name)


@pytest.mark.parametrize("family", ["vit", "bert lora"])
def test_parts_of_devices_rest_where_the_whole_does(family: str) -> None:
    model, workload = case(family)
    rng = np.random.default_rng(3)
    placement = Placement(2, tuple(rng.integers(2, size=workload.num_subnets)), (0, 1, 0))
    schedule = np.full((workload.num_subnets, len(SAMPLES)), Operation.REST)
    schedule[rng.random(workload.num_subnets) < 0.4, 1] = Operation.FULL
    trains = (schedule == Operation.FULL).any(axis=1)
    parameters = dict(model.named_parameters())
    for rank in range(2):
        shards = rank_shards(model, workload, (Replica(placement),), rank)
        left = resting(model, shards, workload, schedule)
        rows = {id(part.parameter): part for part in (*left.rows, *left.elsewhere)}
        for shard in shards:
            parameter = parameters[shard.name]
            if not parameter.requires_grad:
                continue
            mask = trained_mask(shard.name, parameter, workload, trains)
            is_whole = any(parameter is p for p in left.whole)
            assert is_whole == (not mask.any()), shard.name
            held, kept = shard.take(mask).clone(), rows.get(id(parameter))
            assert (kept is not None) == (not is_whole and not held.all()), shard.name
            if kept is not None:
                assert (kept in left.elsewhere) == (not held.any()), shard.name
                for part in kept.of(held):
                    assert not part.any()
                    part.fill_(1)
                assert held.all(), shard.name
