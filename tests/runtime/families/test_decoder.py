"""Decoder language models through the partition: against transformers' own training, and an
independent masked reference."""

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
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from d2ft_sched.schedule.waves import running_samples
from decoder_models import LAYOUTS, NUM_TOKENS, packed, padded, small_decoder
from masked_operations import SHARES, by_operation, random_schedule
from runtime.families.known_families import family_of
from runtime.lanes.slices import slice_schedule
from runtime.measure.step_times import measure_steps
from runtime.models.build import check_supported, shape_of
from runtime.models.peft_adapters import add_adapters, save_adapter
from runtime.partitioned_step import forward_backward
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
