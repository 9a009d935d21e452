"""Adapters in lanes: against peft's own training, a masked reference, and the closed forms."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
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
from runtime.measure.flop_counting import count_flops
from runtime.measure.memory_tracking import kept_bytes, peak_memory_bytes
from runtime.measure.steps_side_by_side import begin_state
from runtime.models.build import shape_of
from runtime.models.optimizers import create_optimizer
from runtime.models.peft_adapters import CONFIG, FACTORS, add_adapters, save_adapter
from runtime.partitioned_step import forward, forward_backward
from runtime.ranks.shards import whole_shards
from runtime.training.resting_rows import resting, update

LORA = Lora(4, 6.0)
GROUPINGS = [1, 2, 3, 6, (1, 2, 3), (4, 2)]


def vit(dtype: torch.dtype = torch.float64, seed: int = 0, **options: object) -> VisionTransformer:
    torch.manual_seed(seed)
    sizes = {
        "img_size": 28,
        "patch_size": 14,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 6,
        "num_classes": 5,
    }
    return VisionTransformer(**(sizes | options)).to(dtype)


def adapted(
    model: VisionTransformer,
    heads_per_subnet: int | tuple[int, ...] = 1,
    samples: tuple[int, ...] = (2, 1, 3, 2),
) -> Workload:
    """Puts adapters with random factors on `model`; its workload."""
    shape = shape_of(model)
    element_bytes = model.head.weight.element_size()
    partition = partition_by_heads(shape, heads_per_subnet)
    add_adapters(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    return Workload(shape, partition, samples, element_bytes, element_bytes, lora=LORA)


def batch(num_samples: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(num_samples, 3, 28, 28, dtype=dtype, generator=generator)
    return images, torch.randint(5, (num_samples,), generator=generator)


def dense(workload: Workload) -> np.ndarray:
    return uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        scale = max(float(tensor.abs().max()), 1e-12)
        assert float((got[name] - tensor).abs().max()) <= 1e-9 * scale, name


def effective(linear: nn.Module) -> Tensor:
    """The weight that a map and its adapter are together."""
    down, up = linear.lora_A["default"].weight, linear.lora_B["default"].weight
    return linear.base_layer.weight + LORA.alpha / LORA.rank * (up @ down)


def reference_logits(
    model: VisionTransformer, images: Tensor, workload: Workload, schedule: np.ndarray
) -> Tensor:
    """The schedule by masks: every head and unit is computed, then kept, detached or zeroed."""
    partition, shape = workload.partition, workload.shape
    operation_of = torch.as_tensor(np.repeat(schedule, workload.samples, axis=1)).T
    x = model._pos_embed(model.patch_embed(images))
    num_samples = len(x)
    for index, block in enumerate(model.blocks):
        of_head = torch.zeros(num_samples, shape.num_heads)
        of_unit = torch.zeros(num_samples, shape.mlp_hidden)
        for s in partition.of_block(index):
            subnet, operation = partition.subnets[s], operation_of[:, s : s + 1].float()
            of_head[:, list(subnet.heads)] = operation
            of_unit[:, subnet.hidden_start : subnet.hidden_stop] = operation
        attn, mlp = block.attn, block.mlp
        weights = effective(attn.qkv), attn.qkv.bias, effective(attn.proj)
        run = partial(attention, block.norm1(x), shape)
        branch = by_operation(run, weights, of_head[:, :, None, None]).sum(dim=1)
        x = x + block.ls1(branch + attn.proj.bias)
        weights = effective(mlp.fc1), mlp.fc1.bias, effective(mlp.fc2)
        run = partial(two_maps, block.norm2(x), mlp.act)
        branch = by_operation(run, weights, of_unit[:, :, None, None]).sum(dim=1)
        x = x + block.ls2(branch + mlp.fc2.bias)
    return model.forward_head(model.norm(x))


def peft_model(**options: object) -> PeftModel:
    """The same model with adapters and classifier trained as peft does it by itself."""
    config = LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=0.0,
        target_modules=r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))",
        modules_to_save=["head"],
    )
    return get_peft_model(vit(**options), config)


def copy_factors(source: nn.Module, target: nn.Module) -> None:
    values = dict(source.named_parameters())
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if "lora_" in name:
                parameter.copy_(values[name.removeprefix("base_model.model.")])


@pytest.mark.parametrize("num_waves", [1, 3])
@pytest.mark.parametrize("heads_per_subnet", GROUPINGS)
def test_all_full_trains_as_peft_does(
    heads_per_subnet: int | tuple[int, ...], num_waves: int
) -> None:
    model = vit(init_values=0.3)
    workload = adapted(model, heads_per_subnet)
    plain = peft_model(init_values=0.3).double()
    copy_factors(model, plain)
    images, labels = batch(8)
    slices = slice_schedule(workload, dense(workload), num_waves)
    ours, theirs = (create_optimizer(m, lr=1e-2, weight_decay=0.0) for m in (model, plain))
    for _ in range(4):
        loss = forward_backward(model, images, labels, slices)
        wanted = F.cross_entropy(plain(images), labels)
        wanted.backward()
        assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-9)
        own = gradients(plain)
        prefix, head = "base_model.model.", "head.modules_to_save.default"
        own = {n.removeprefix(prefix).replace(head, "head"): g for n, g in own.items()}
        got = gradients(model)
        assert got.keys() == own.keys()
        assert_same(got, own)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        assert_same({"logits": model(images)}, {"logits": plain(images)})


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_mixed_schedules_equal_the_masked_reference(data: st.DataObject) -> None:
    model = vit(seed=data.draw(st.integers(0, 99)), init_values=0.3)
    samples = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    workload = adapted(model, data.draw(st.sampled_from(GROUPINGS)), samples)
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    size = (workload.num_subnets, workload.num_microbatches)
    schedule = random_schedule(rng, size, data.draw(st.sampled_from(SHARES)))
    num_waves = data.draw(st.integers(1, workload.num_microbatches))
    images, labels = batch(sum(samples))
    device = data.draw(st.sampled_from(MERGING_DEVICES))
    slices = slice_schedule(workload, schedule, num_waves, device)
    loss = forward_backward(model, images, labels, slices)
    got = gradients(model)
    rests = resting(model, whole_shards(model), workload, schedule).whole
    assert all(parameter.grad is None for parameter in rests)
    model.zero_grad()
    wanted = loss_of_running(
        reference_logits(model, images, workload, schedule), labels, workload, schedule
    )
    wanted.backward()
    assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-9)
    for name, parameter in model.named_parameters():
        is_trained = "lora_" in name or name.startswith("head.")
        does_rest = any(parameter is one for one in rests)
        assert (name in got) == (is_trained and not does_rest), name
        if does_rest and parameter.grad is not None:
            assert not parameter.grad.any(), name
        elif name in got:
            assert_same({name: got[name]}, {name: parameter.grad})


@pytest.mark.parametrize("seed", range(12))
def test_counted_flops_are_the_closed_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = vit(torch.float32, depth=3)
    workload = adapted(model, [1, 2, 3, (1, 2, 3)][seed % 4])
    size = (workload.num_subnets, workload.num_microbatches)
    schedule = random_schedule(rng, size, [(3, 3, 4, 0), (2, 2, 3, 3), (0, 0, 1, 2)][seed % 3])
    slices = slice_schedule(workload, schedule, 1 + seed % 3)
    images, labels = batch(8, torch.float32)
    counted = count_flops(lambda: forward_backward(model, images, labels, slices))
    assert counted == step_flops(workload, schedule)


def test_a_dense_step_counts_as_pefts_own() -> None:
    model = vit(torch.float32)
    workload = adapted(model, 2)
    images, labels = batch(8, torch.float32)
    slices = slice_schedule(workload, dense(workload))
    ours = count_flops(lambda: forward_backward(model, images, labels, slices))
    plain = count_flops(lambda: F.cross_entropy(model(images), labels).backward())
    assert ours == step_flops(workload, dense(workload)) == plain


@pytest.mark.parametrize(
    "shares",
    [
        (0, 0, 1, 0),
        (0.5, 0, 0.5, 0),
        (0.3, 0.4, 0.3, 0),
        (0, 0.9, 0.1, 0),
        (0.9, 0, 0.1, 0),
        (0, 0, 0.1, 0.9),
        (0.2, 0.2, 0.2, 0.4),
    ],
)
@pytest.mark.parametrize(("num_waves", "layer_scale"), [(1, 0.1), (3, None)])
def test_memory_is_within_eight_percent_of_the_closed_form(
    shares: tuple[float, ...], num_waves: int, layer_scale: float | None
) -> None:
    cpu = torch.device("cpu")
    sizes = {"embed_dim": 96, "img_size": 56, "depth": 3, "init_values": layer_scale}
    model = vit(torch.float32, **sizes)
    workload = adapted(model, 2, (4, 4, 4, 4, 4))
    rng = np.random.default_rng(0)
    schedule = random_schedule(rng, (workload.num_subnets, 5), shares)
    slices = slice_schedule(workload, schedule, num_waves)
    images, labels = torch.randn(20, 3, 56, 56), torch.randint(5, (20,))
    optimizer = create_optimizer(model, workload.optimizer, lr=0.0)

    def step() -> None:
        forward_backward(model, images, labels, slices)
        update(optimizer, left)
        optimizer.zero_grad()

    begin_state(optimizer)
    left = resting(model, whole_shards(model), workload, schedule)
    step()
    state = [t for values in optimizer.state.values() for t in values.values()]
    held = [*model.parameters(), *state, images, labels]
    placement = Placement(1, (0,) * workload.num_subnets, (0,) * 5)
    predicted = device_memory(workload, Replica(placement, num_waves), schedule)
    assert peak_memory_bytes(step, held, cpu) == pytest.approx(predicted.total[0], rel=0.08)
    kept = max(
        kept_bytes(lambda wave=wave: forward(model, wave.take(images), wave), held, cpu)
        for wave in slices.waves
    )
    assert kept == pytest.approx(predicted.activations[0], rel=0.02)


def test_autocast_computes_near_float32() -> None:
    model = vit(torch.float32)
    workload = adapted(model, 2)
    images, labels = batch(8, torch.float32)
    rng = np.random.default_rng(3)
    schedule = rng.integers(4, size=(workload.num_subnets, workload.num_microbatches))
    slices = slice_schedule(workload, schedule)
    losses = [float(forward_backward(model, images, labels, slices))]
    exact = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        losses.append(float(forward_backward(model, images, labels, slices)))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    for name, gradient in gradients(model).items():
        assert gradient.dtype == torch.float32
        assert float((gradient - exact[name]).norm()) <= 0.1 * float(exact[name].norm()), name


def test_plain_peft_loads_what_is_saved(tmp_path: Path) -> None:
    model = vit()
    adapted(model)
    nn.init.normal_(model.head.weight)
    save_adapter(model, dict(model.named_parameters()), tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {CONFIG, FACTORS}
    loaded = PeftModel.from_pretrained(vit(), str(tmp_path / "adapter"))
    images, _ = batch(4)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        merged = loaded.merge_and_unload()
        assert torch.allclose(merged(images), model(images), atol=1e-12)


def test_adapters_start_without_effect_and_by_their_seed(
    small_vit: Callable[..., VisionTransformer],
) -> None:
    images, _ = batch(3)
    factors = []
    for seed in (0, 0, 1):
        model = small_vit()
        before = model(images)
        torch.manual_seed(123)
        add_adapters(model, LORA, seed)
        assert torch.equal(model(images), before)
        factors.append(model.blocks[0].attn.qkv.lora_A["default"].weight.detach())
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])
