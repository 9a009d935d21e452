"""Scores from the model against slow, obvious references."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.scores import Scores
from d2ft_sched.workload import Workload
from runtime.scores import fisher_information, mean_scores, score_minibatch, weight_magnitude


def subnet_parts(model: VisionTransformer, workload: Workload, s: int, of: Callable) -> list:
    """Every parameter slice of subnet s, one head and one hidden unit at a time."""
    subnet, head_dim = workload.partition.subnets[s], workload.shape.head_dim
    num_channels = workload.shape.num_heads * head_dim
    block = model.blocks[subnet.block]
    parts = []
    for head in subnet.heads:
        own = slice(head * head_dim, (head + 1) * head_dim)
        for kind in range(3):
            rows = slice(kind * num_channels + own.start, kind * num_channels + own.stop)
            parts.append(of(block.attn.qkv.weight)[rows])
            if block.attn.qkv.bias is not None:
                parts.append(of(block.attn.qkv.bias)[rows])
        parts.append(of(block.attn.proj.weight)[:, own])
    for unit in range(subnet.hidden_start, subnet.hidden_stop):
        parts.append(of(block.mlp.fc1.weight)[unit])
        parts.append(of(block.mlp.fc1.bias)[unit])
        parts.append(of(block.mlp.fc2.weight)[:, unit])
    return parts


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "init_values": 0.1}])
@pytest.mark.parametrize("heads_per_subnet", [1, (1, 2, 3)])
def test_fisher_information_is_the_squared_gradient_of_each_micro_batch(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    options: dict,
    heads_per_subnet: int | tuple[int, ...],
) -> None:
    model = small_vit(depth=2, **options)
    workload = workload_of(model, heads_per_subnet, (2, 1, 3))
    images, labels = torch.randn(6, 3, 28, 28).double(), torch.tensor([0, 1, 2, 3, 4, 0])
    got = fisher_information(model, images, labels, workload)
    assert all(p.grad is None for p in model.parameters())
    for i, own in enumerate((slice(0, 2), slice(2, 3), slice(3, 6))):
        model.zero_grad()
        F.cross_entropy(model(images[own]), labels[own]).backward()
        for s in range(workload.num_subnets):
            parts = subnet_parts(model, workload, s, lambda p: p.grad)
            wanted = sum(float(part.square().sum()) for part in parts)
            assert got[s, i] == pytest.approx(wanted, rel=1e-9)


def test_weight_magnitude_is_the_norm_of_a_subnets_weights(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(depth=2)
    workload = workload_of(model, 2)
    l1, l2 = weight_magnitude(model, workload, "l1"), weight_magnitude(model, workload, "l2")
    for s in range(workload.num_subnets):
        values = torch.cat(
            [p.flatten() for p in subnet_parts(model, workload, s, lambda p: p.detach())]
        )
        assert l1[s] == pytest.approx(float(values.abs().sum()), rel=1e-9)
        assert l2[s] == pytest.approx(float(values.norm()), rel=1e-9)


def test_scores_of_minibatches_and_their_mean(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 3)
    scores = [
        score_minibatch(model, torch.randn(8, 3, 28, 28), torch.randint(5, (8,)), workload)
        for _ in range(2)
    ]
    assert scores[0].backward.shape == (workload.num_subnets, workload.num_microbatches)
    assert (scores[0].forward == scores[0].forward[:, :1]).all()
    mean = mean_scores(scores)
    assert isinstance(mean, Scores)
    assert np.allclose(mean.backward, (scores[0].backward + scores[1].backward) / 2)
