"""Decoder language models through the partition: against transformers' own training, and an
independent masked reference."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import device_memory
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement, place_round_robin
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.waves import running_samples
from decoder_models import LAYOUTS, packed, padded, small_decoder
from masked_operations import SHARES, by_operation, random_schedule
from runtime.families.known_families import family_of
from runtime.lanes.slice_schedule import slice_schedule
from runtime.measure.flop_counting import count_flops
from runtime.measure.step_times import measure_steps
from runtime.models.build import build_model, check_supported, shape_of
from runtime.models.peft_adapters import add_adapters, save_adapter
from runtime.partitioned_step import forward_backward
from runtime.ranks.shards import rank_shards
from runtime.scoring.minibatch_scores import score_minibatch, score_samples

CPU = torch.device("cpu")
LORA = Lora(3, 4.5)
BATCHES = {"padded": padded, "packed": packed}


def workload_of(
    model: nn.Module,
    heads: int | tuple[int, ...] = 1,
    samples: tuple[int, ...] = (2, 1, 3, 2),
    lora: Lora | None = None,
) -> Workload:
    """With `lora` it puts adapters with random factors on `model`."""
    shape = shape_of(model)
    size = next(model.parameters()).element_size()
    if lora is not None:
        add_adapters(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    partition = partition_by_heads(shape, heads)
    return Workload(shape, partition, samples, size, size, lora=lora, frozen_bytes=size)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same_gradients(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, gradient in wanted.items():
        scale = max(float(gradient.abs().max()), 1e-12)
        if "k_proj.bias" in name:
            scale = 1.0
        assert float((got[name] - gradient).abs().max()) <= 1e-6 * scale, name


def transformers_loss(model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """As transformers trains: its own forward and its own loss, the mean over counted tokens, which
    it would round to float32."""
    if inputs.dim() == 3:
        tokens, positions = inputs.unbind(1)
        out = model(input_ids=tokens, position_ids=positions, labels=labels, use_cache=False)
    else:
        mask = (inputs != 0).long()
        out = model(input_ids=inputs, attention_mask=mask, labels=labels)
    loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert out.loss.item() == pytest.approx(loss.item(), rel=1e-6)
    return loss


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lora", [None, LORA])
def test_all_full_is_transformers_own_training(layout: str, batch: str, lora: Lora | None) -> None:
    model = small_decoder(layout)
    workload = workload_of(model, lora=lora)
    inputs, labels = BATCHES[batch](8)
    wanted_loss = transformers_loss(model, inputs, labels)
    wanted_loss.backward()
    wanted = gradients(model)
    model.zero_grad()
    full = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    for num_waves in (1, 3):
        loss = forward_backward(model, inputs, labels, slice_schedule(workload, full, num_waves))
        assert float(loss) == pytest.approx(wanted_loss.item(), rel=1e-6)
        assert_same_gradients(gradients(model), wanted)
        model.zero_grad()


def effective(linear: Any) -> Tensor:
    """The weight that a map and its adapter, if it has one, are together."""
    if not hasattr(linear, "lora_A"):
        return linear.weight
    down, up = linear.lora_A["default"].weight, linear.lora_B["default"].weight
    return linear.base_layer.weight + LORA.alpha / LORA.rank * (up @ down)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As transformers has it, in float32 within."""
    wide = x.float()
    return weight * (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def grouped_attention(
    x: Tensor,
    places: tuple[Tensor, Tensor, Tensor],
    eps: float,
    maps_in: tuple[Tensor, Tensor, Tensor],
    biases_in: tuple[Tensor | None, ...],
    weight_out: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    head_dim: int,
) -> Tensor:
    """What each head of keys and values makes of ``[B, N, D]`` with its queries, ``[B, heads, N,
    D]``; `places` are cosine, sine and who may look at whom."""
    cos, sin, visible = places
    num_heads = len(maps_in[1]) // head_dim
    query, key, value = (
        F.linear(x, weight, bias).unflatten(-1, (num_heads, -1, head_dim)).permute(0, 2, 3, 1, 4)
        for weight, bias in zip(maps_in, biases_in, strict=True)
    )
    if norms is not None:
        query, key = rms(query, norms[0], eps), rms(key, norms[1], eps)

    def turned(part: Tensor) -> Tensor:
        left, right = part.chunk(2, -1)
        return part * cos + torch.cat([-right, left], -1) * sin

    scores = turned(query) @ turned(key).mT / head_dim**0.5
    mixed = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value
    per_query = weight_out.unflatten(1, (num_heads, -1, head_dim))
    return torch.einsum("bgrnd,wgrd->bgnw", mixed, per_query)


def gated_units(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """What each hidden unit makes of ``[B, N, D]``, ``[B, units, N, D]``."""
    hidden = F.silu(F.linear(x, gate)) * F.linear(x, up)
    return torch.einsum("bnu,wu->bunw", hidden, down)


def reference_loss(
    model: Any, inputs: Tensor, labels: Tensor, workload: Workload, schedule: np.ndarray
) -> Tensor:
    """The schedule by masks: every head and unit is computed, then kept, detached or zeroed."""
    partition, shape, decoder = workload.partition, workload.shape, model.model
    operation = torch.as_tensor(np.repeat(schedule, workload.samples, axis=1)).T
    tokens = inputs if inputs.dim() == 2 else inputs[:, 0]
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    if inputs.dim() == 3:
        positions = inputs[:, 1]
    text = (positions == 0).cumsum(1)
    earlier = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    visible = (text[:, :, None] == text[:, None, :]) & earlier
    cos, sin = decoder.rotary_emb(torch.zeros(0, dtype=torch.float64), position_ids=positions)
    places = cos[:, None, None], sin[:, None, None], visible[:, None, None]
    x = decoder.embed_tokens(tokens)
    for index, layer in enumerate(decoder.layers):
        of_head = torch.zeros(len(tokens), shape.num_heads)
        of_unit = torch.zeros(len(tokens), shape.mlp_hidden)
        for s in partition.of_block(index):
            subnet = partition.subnets[s]
            of_head[:, list(subnet.heads)] = operation[:, s : s + 1].float()
            of_unit[:, subnet.hidden_start : subnet.hidden_stop] = operation[:, s : s + 1].float()

        own, eps = layer.self_attn, model.config.rms_norm_eps
        maps_in = own.q_proj, own.k_proj, own.v_proj
        weights = [effective(linear) for linear in maps_in]
        biases = [linear.bias for linear in maps_in]
        norms = [own.q_norm.weight, own.k_norm.weight] if hasattr(own, "q_norm") else [None] * 2
        normed = layer.input_layernorm(x)

        def attend(*given: Tensor, x: Tensor = normed, eps: float = eps) -> Tensor:
            rows, more, (out, *scales) = given[:3], given[3:6], given[6:]
            normed_heads = None if scales[0] is None else (scales[0], scales[1])
            return grouped_attention(x, places, eps, rows, more, out, normed_heads, shape.head_dim)

        given = [*weights, *biases, effective(own.o_proj), *norms]
        x = x + by_operation(attend, given, of_head[:, :, None, None]).sum(1)
        mlp = layer.mlp
        given = [effective(linear) for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
        run = partial(gated_units, layer.post_attention_layernorm(x))
        x = x + by_operation(run, given, of_unit[:, :, None, None]).sum(1)
    logits = F.linear(decoder.norm(x), model.lm_head.weight)
    runs = torch.from_numpy(running_samples(schedule, workload.samples))
    return F.cross_entropy(logits[runs][:, :-1].flatten(0, 1), labels[runs][:, 1:].flatten())


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_mixed_schedules_equal_the_masked_reference(data: st.DataObject) -> None:
    model = small_decoder(data.draw(st.sampled_from(sorted(LAYOUTS))))
    samples = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    lora = data.draw(st.sampled_from([None, LORA]))
    groups = [1, shape_of(model).num_heads]
    workload = workload_of(model, data.draw(st.sampled_from(groups)), samples, lora)
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    cells = (workload.num_subnets, workload.num_microbatches)
    schedule = random_schedule(rng, cells, data.draw(st.sampled_from(SHARES)))
    num_waves = data.draw(st.integers(1, workload.num_microbatches))
    slices = slice_schedule(workload, schedule, num_waves, recomputes=data.draw(st.booleans()))
    inputs, labels = data.draw(st.sampled_from([padded, packed]))(sum(samples))
    loss = forward_backward(model, inputs, labels, slices)
    got = gradients(model)
    model.zero_grad()
    wanted = reference_loss(model, inputs, labels, workload, schedule)
    if wanted.requires_grad:  # not where nothing trains but adapters, and none does
        wanted.backward()
    assert float(loss) == pytest.approx(wanted.item(), rel=1e-6)
    assert_same_gradients(got, gradients(model))


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("layout", ["smollm2", "qwen3"])
def test_plain_peft_puts_the_adapters_on_transformers_own_model(
    layout: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = small_decoder(layout)
    workload_of(model, lora=LORA)
    inputs, _ = padded(3)
    wanted = model(input_ids=inputs).logits
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    save_adapter(model, trained, tmp_path)
    loaded = PeftModel.from_pretrained(small_decoder(layout), str(tmp_path))
    assert torch.allclose(loaded(input_ids=inputs).logits, wanted, rtol=1e-6)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("lora", [None, LORA], ids=["all", "adapters"])
@pytest.mark.parametrize("layout", ["llama", "qwen3", "smollm2"])
def test_counted_flops_are_the_closed_form(
    layout: str, lora: Lora | None, recomputes: bool
) -> None:
    model = small_decoder(layout, torch.float32)
    workload = workload_of(model, lora=lora)
    placement = place_round_robin(workload.partition, workload.num_microbatches, 1)
    placement = replace(placement, recomputing=(0,) if recomputes else ())
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    mixed = np.random.default_rng(0).integers(1, 4, size=dense.shape)
    inputs, labels = padded(8)
    for schedule in (dense, mixed):
        slices = slice_schedule(workload, schedule, recomputes=recomputes)
        run = partial(forward_backward, model, inputs, labels, slices)
        assert count_flops(run) == step_flops(workload, schedule, placement)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("lora", [None, Lora(8, 16.0)], ids=["all", "adapters"])
def test_predicted_memory_is_within_five_percent(lora: Lora | None, recomputes: bool) -> None:
    sizes = {
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "intermediate_size": 192,
        "vocab_size": 512,
        "num_hidden_layers": 16,
        "max_position_embeddings": 128,
    }
    model = small_decoder("smollm2", torch.float32, **sizes)
    model.num_tokens = 128
    workload = workload_of(model, 1, (2, 2, 2, 2), lora)
    placement = place_round_robin(workload.partition, 4, 1)
    placement = replace(placement, recomputing=(0,) if recomputes else ())
    dense = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    step = measure_steps(
        model, workload, {"step": dense}, CPU, num_repeats=1, recomputes=recomputes
    )["step"]
    predicted = device_memory(workload, Replica(placement), dense)
    assert step.peak_memory_bytes == pytest.approx(predicted.total[0], rel=0.05)
    assert step.activation_bytes == pytest.approx(predicted.activations[0], rel=0.05)


@pytest.mark.parametrize(
    ("layout", "samples", "tokens", "lora", "element_bytes", "frozen_bytes"),
    [
        ("smollm2", 1, 8, None, 4, 4),
        ("smollm2", 2, 32, None, 4, 4),
        ("llama", 2, 32, None, 2, 4),
        ("smollm2", 3, 64, None, 2, 4),
        ("smollm2", 3, 64, LORA, 2, 2),
    ],
    ids=["few tokens", "all", "own head, narrow", "two chunks, narrow", "narrow base"],
)
def test_predicted_memory_of_a_large_vocabulary_is_within_five_percent(
    layout: str,
    samples: int,
    tokens: int,
    lora: Lora | None,
    element_bytes: int,
    frozen_bytes: int,
) -> None:
    sizes = {"hidden_size": 72, "num_attention_heads": 9, "head_dim": 8, "intermediate_size": 96}
    model = small_decoder(
        layout, torch.float32, **sizes, vocab_size=4096, max_position_embeddings=64
    )
    model.num_tokens = tokens
    workload = replace(
        workload_of(model, 1, (samples,) * 4, lora),
        element_bytes=element_bytes,
        frozen_bytes=frozen_bytes,
        parameter_bytes=4,
    )
    if frozen_bytes == 2:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    dense = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    step = measure_steps(model, workload, {"step": dense}, CPU, num_repeats=1)["step"]
    placement = place_round_robin(workload.partition, 4, 1)
    predicted = device_memory(workload, Replica(placement), dense).total[0]
    assert step.peak_memory_bytes == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("lora", [None, LORA], ids=["all", "adapters"])
@pytest.mark.parametrize("layout", ["llama", "qwen2", "qwen3"])
def test_scores_are_squared_gradients_of_a_subnets_own(layout: str, lora: Lora | None) -> None:
    model = small_decoder(layout)
    workload = workload_of(model, 1, (2, 1), lora)
    inputs, labels = padded(3)
    got = score_samples(model, inputs, labels, workload, ["fisher"])["fisher"]
    scores = score_minibatch(model, inputs, labels, workload)
    full = uniform_schedule(workload.num_subnets, 1, Operation.FULL)
    for i in range(3):
        model.zero_grad()
        one = replace(workload, microbatch_samples=(1,))
        own = inputs[i : i + 1], labels[i : i + 1]
        forward_backward(model, *own, slice_schedule(one, full))
        num_counted = int(family_of(model).num_counted(own[1]).sum())
        for s in range(workload.num_subnets):
            wanted = squared_gradient(model, workload, s) * num_counted**2
            assert got[s, i] == pytest.approx(wanted, rel=1e-6)
    model.zero_grad()
    first = replace(workload, microbatch_samples=(2,))
    forward_backward(model, inputs[:2], labels[:2], slice_schedule(first, full))
    for s in range(workload.num_subnets):
        wanted = squared_gradient(model, workload, s)
        assert scores.backward[s, 0] == pytest.approx(wanted, rel=1e-6)


def squared_gradient(model: nn.Module, workload: Workload, s: int) -> float:
    """Of what of the parameters one subnet has alone, found by the shards of ranks."""
    device = tuple(int(i != s) for i in range(workload.num_subnets))
    replicas = (Replica(Placement(2, device, (1,) * workload.num_microbatches)),)
    gradients_of, total = dict(model.named_parameters()), 0.0
    for shard in rank_shards(model, workload, replicas, 0):
        gradient = gradients_of[shard.name].grad
        if not shard.is_whole and gradient is not None:
            total += float(shard.take(gradient).square().sum())
    return total


def test_a_folder_is_built_with_its_weights_and_said_as_transformers_says_it(
    tmp_path: Path,
) -> None:
    for layout in ("smollm2", "qwen3"):
        model = small_decoder(layout, torch.float32)
        folder = tmp_path / layout
        model.save_pretrained(folder)
        built = build_model(str(folder), num_tokens=7, weights=str(folder))
        inputs, _ = padded(2)
        assert torch.equal(built(input_ids=inputs).logits, model(input_ids=inputs).logits)
        shape = shape_of(built)
        assert shape == load_model_shape(str(folder), num_tokens=7)
        assert shape.num_parameters == sum(p.numel() for p in built.parameters())


def test_frozen_weights_are_narrow_under_adapters_that_are_not() -> None:
    model = small_decoder("llama", torch.float32)
    add_adapters(model, LORA, frozen_bytes=2)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    shape = shape_of(model)
    workload = Workload(
        shape, partition_by_heads(shape, 1), (2, 1), 2, 4, lora=LORA, frozen_bytes=2
    )
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    with torch.autocast("cpu", torch.bfloat16):
        loss = forward_backward(model, *padded(3), slice_schedule(workload, dense))
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
        assert parameter.grad is None or parameter.grad.dtype == torch.float32


def test_what_lanes_cannot_compute_is_named() -> None:
    with pytest.raises(InputError, match=r"model 'small': .*dropout"):
        check_supported(small_decoder("llama", attention_dropout=0.1))
    with pytest.raises(InputError, match="model 'small': sliding_window is 4"):
        check_supported(small_decoder("mistral", sliding_window=4))
