"""A frozen prefix trains what is behind it, exactly, and nothing before."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2ft_sched.model.lora import Lora
from d2ft_sched.schedule.operations import Operation
from runtime.families.known_families import family_of
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.build import build_model
from runtime.models.peft_adapters import add_adapters
from runtime.partitioned_step import forward_backward
from runtime.peers.frozen_prefix import freeze_prefix


@pytest.mark.parametrize("num_blocks", [0, 1, 2, 3])
def test_what_trains_has_the_gradients_of_plain_timm(small_vit, workload_of, num_blocks):
    model = small_vit(init_values=0.3)
    freeze_prefix(model, num_blocks)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    behind = ("norm.", "head.", *(f"blocks.{i}." for i in range(num_blocks, 3)))
    every = {name for name, _ in model.named_parameters()}
    assert trains == ({n for n in every if n.startswith(behind)} if num_blocks else every)

    workload = workload_of(model, 2)
    block = workload.partition.block[:, None]
    schedule = np.where(block < num_blocks, Operation.FORWARD_ONLY, Operation.FULL)
    schedule = np.repeat(schedule, workload.num_microbatches, axis=1)
    num_samples = int(workload.samples.sum())
    images = torch.randn(num_samples, 3, 28, 28, dtype=torch.float64)
    labels = torch.arange(num_samples) % 5
    loss = forward_backward(model, images, labels, slice_schedule(workload, schedule))
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    wanted = F.cross_entropy(model(images), labels)
    wanted.backward()
    assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-9)
    assert set(got) == trains
    for name, parameter in model.named_parameters():
        if name in trains:
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-7, atol=1e-10)


def test_a_bert_keeps_its_embeddings_and_first_blocks():
    model = build_model("minilm-l6", num_tokens=8, num_classes=3)
    freeze_prefix(model, 4)
    blocks = family_of(model).blocks(model)
    trains = {p for p in model.parameters() if p.requires_grad}
    for i, sublayers in enumerate(blocks):
        for sublayer in sublayers:
            assert all((p in trains) == (i >= 4) for p in sublayer.parameters())
    embeddings = [p for name, p in model.named_parameters() if "embeddings" in name]
    assert embeddings
    assert trains.isdisjoint(embeddings)
    assert family_of(model).classifier(model).weight in trains


def test_adapters_of_the_first_blocks_are_frozen(small_vit):
    model = small_vit()
    add_adapters(model, Lora(2, 2.0))
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    freeze_prefix(model, 1)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    behind = {n for n in adapters if not n.startswith("blocks.0.")}
    assert trains == behind | {"head.weight", "head.bias"}
