"""Partitioned execution against untouched timm models and against an independent reference."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from d2ft_sched.cluster.device import Device
from d2ft_sched.model.partition import Partition, Subnet, partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from lane_devices import MERGING_DEVICES
from masked_operations import (
    SHARES,
    attention,
    by_operation,
    loss_of_running,
    random_schedule,
    two_maps,
)
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.build import shape_of
from runtime.partitioned_step import forward_backward

GROUPINGS = [1, 2, 3, 6, (1, 2, 3), (4, 2)]


def batch(workload: Workload, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    num_samples = int(workload.samples.sum())
    images = torch.randn(num_samples, 3, 28, 28, dtype=dtype, generator=generator)
    return images, torch.randint(5, (num_samples,), generator=generator)


def gradients(model: VisionTransformer) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same_gradients(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, gradient in wanted.items():
        scale = max(float(gradient.abs().max()), 1e-12)
        assert float((got[name] - gradient).abs().max()) <= 1e-6 * scale, name


def plain_step(model: VisionTransformer, images: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return loss.detach(), gradients(model)


def scheduled_step(
    model: VisionTransformer,
    workload: Workload,
    schedule: np.ndarray,
    num_waves: int = 1,
    device: Device | None = None,
) -> tuple[Tensor, dict]:
    images, labels = batch(workload)
    model.zero_grad()
    slices = slice_schedule(workload, schedule, num_waves, device)
    loss = forward_backward(model, images, labels, slices)
    return loss, gradients(model)


def reference_logits(
    model: VisionTransformer, images: Tensor, workload: Workload, schedule: np.ndarray
) -> Tensor:
    """The schedule by masks: every head and unit is computed, then kept, detached or zeroed."""
    partition, shape = workload.partition, workload.shape
    sample_operation = torch.as_tensor(np.repeat(schedule, workload.samples, axis=1)).T
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    num_samples = len(x)
    for index, block in enumerate(model.blocks):
        head_operation = torch.zeros(num_samples, shape.num_heads)
        unit_operation = torch.zeros(num_samples, shape.mlp_hidden)
        for s in partition.of_block(index):
            subnet = partition.subnets[s]
            head_operation[:, list(subnet.heads)] = sample_operation[:, s : s + 1].float()
            unit_operation[:, subnet.hidden_start : subnet.hidden_stop] = sample_operation[
                :, s : s + 1
            ].float()

        qkv, proj, fc1, fc2 = block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2
        run = partial(attention, block.norm1(x), shape)
        weights = qkv.weight, qkv.bias, proj.weight
        branch = by_operation(run, weights, head_operation[:, :, None, None]).sum(dim=1)
        x = x + block.ls1(branch + proj.bias)

        run = partial(two_maps, block.norm2(x), block.mlp.act)
        weights = fc1.weight, fc1.bias, fc2.weight
        branch = by_operation(run, weights, unit_operation[:, :, None, None]).sum(dim=1)
        x = x + block.ls2(branch + fc2.bias)
    return model.forward_head(model.norm(x))


@pytest.mark.parametrize("num_waves", [1, 2, 4])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize("heads_per_subnet", GROUPINGS)
def test_all_full_equals_the_untouched_model(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    heads_per_subnet: int | tuple[int, ...],
    layer_scale: float | None,
    num_waves: int,
) -> None:
    model = small_vit(init_values=layer_scale)
    workload = workload_of(model, heads_per_subnet)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    loss, got = scheduled_step(model, workload, dense, num_waves)
    plain_loss, wanted = plain_step(model, *batch(workload))
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
    assert_same_gradients(got, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": False, "global_pool": "avg"},
        {"qkv_bias": False, "reg_tokens": 2, "no_embed_class": True},
        {"proj_bias": False, "pre_norm": True},
        {"act_layer": "silu", "mlp_ratio": 2.5},
    ],
)
def test_all_full_equals_other_plain_vits(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    options: dict,
) -> None:
    model = small_vit(**options)
    workload = workload_of(model, 2)
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    loss, got = scheduled_step(model, workload, dense)
    plain_loss, wanted = plain_step(model, *batch(workload))
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-6)
    assert_same_gradients(got, wanted)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mixed_schedules_equal_the_masked_reference(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=24,
        depth=2,
        num_heads=6,
        num_classes=5,
        init_values=data.draw(st.sampled_from([None, 0.3])),
    ).double()
    shape = shape_of(model)
    workload = Workload(
        shape,
        partition_by_heads(shape, data.draw(st.sampled_from(GROUPINGS))),
        tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))),
        element_bytes=8,
        parameter_bytes=8,
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    size = (workload.num_subnets, workload.num_microbatches)
    schedule = random_schedule(rng, size, data.draw(st.sampled_from(SHARES)))
    num_waves = data.draw(st.integers(1, workload.num_microbatches))
    device = data.draw(st.sampled_from(MERGING_DEVICES))

    loss, got = scheduled_step(model, workload, schedule, num_waves, device)
    images, labels = batch(workload)
    model.zero_grad()
    wanted_loss = loss_of_running(
        reference_logits(model, images, workload, schedule), labels, workload, schedule
    )
    wanted_loss.backward()
    assert float(loss) == pytest.approx(float(wanted_loss.detach()), rel=1e-6)
    assert_same_gradients(got, gradients(model))


@pytest.mark.parametrize("seed", range(4))
def test_scattered_heads_and_empty_shares_equal_the_masked_reference(
    small_vit: Callable[..., VisionTransformer], seed: int
) -> None:
    model = small_vit(depth=2, init_values=0.3)
    shape = shape_of(model)
    subnets = tuple(
        subnet
        for block in range(2)
        for subnet in (
            Subnet(block, (0, 2, 5), 0, 40),
            Subnet(block, (4,), 40, 40),
            Subnet(block, (), 40, 150),
            Subnet(block, (1, 3), 150, 192),
        )
    )
    partition = Partition(subnets, shape.num_blocks, shape.num_heads, shape.mlp_hidden)
    workload = Workload(shape, partition, (1, 2, 1), element_bytes=8, parameter_bytes=8)
    schedule = np.random.default_rng(seed).integers(4, size=(len(partition), 3))
    loss, got = scheduled_step(model, workload, schedule)
    images, labels = batch(workload)
    model.zero_grad()
    wanted_loss = loss_of_running(
        reference_logits(model, images, workload, schedule), labels, workload, schedule
    )
    wanted_loss.backward()
    assert float(loss) == pytest.approx(float(wanted_loss.detach()), rel=1e-6)
    assert_same_gradients(got, gradients(model))


def test_a_second_mini_batch_adds_to_the_gradients(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit()
    workload = workload_of(model)
    schedule = np.random.default_rng(0).integers(
        3, size=(workload.num_subnets, workload.num_microbatches)
    )
    _, once = scheduled_step(model, workload, schedule)
    forward_backward(model, *batch(workload), slice_schedule(workload, schedule))
    twice = gradients(model)
    assert_same_gradients(twice, {name: 2 * gradient for name, gradient in once.items()})


@pytest.mark.parametrize("operation", [Operation.SHORTCUT, Operation.FORWARD_ONLY, Operation.REST])
def test_only_the_trunk_has_gradients_when_nothing_trains(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    operation: Operation,
) -> None:
    model = small_vit(init_values=0.1)
    workload = workload_of(model)
    schedule = uniform_schedule(workload.num_subnets, workload.num_microbatches, operation)
    scheduled_step(model, workload, schedule)
    of_subnets = ("qkv.weight", "qkv.bias", "proj.weight", "fc1.weight", "fc1.bias", "fc2.weight")
    for name, parameter in model.named_parameters():
        rests = name.startswith("blocks") and name.endswith(of_subnets)
        assert (parameter.grad is None) == rests, name
    for block in model.blocks:
        assert block.mlp.fc2.bias.grad.any()
        assert bool(block.norm1.weight.grad.any()) == (operation == Operation.REST)


def test_the_number_of_waves_is_checked(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    workload = workload_of(small_vit())
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    with pytest.raises(ValueError, match="num_waves is 5; it must be 1 to 4"):
        slice_schedule(workload, dense, 5)
