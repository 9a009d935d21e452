"""Scores from the model against slow, obvious references."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.costs.flops import attention_flops, mlp_flops, step_flops, trunk_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.scoring.minibatch_scores import (
    mean_over_microbatches,
    mean_scores,
    score_minibatch,
    score_samples,
)
from runtime.scoring.score_kinds import (
    ScoreKind,
    fisher_of_microbatches,
    register_score,
    score_names,
    weight_magnitude,
)
from runtime.scoring.training_scores import scoring_flops

SAMPLE_SCORES = ("fisher", "gradient_norm", "taylor", "activation_norm")


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


def squared_gradient(model: VisionTransformer, workload: Workload, s: int) -> float:
    parts = subnet_parts(model, workload, s, lambda p: p.grad)
    return sum(float(part.square().sum()) for part in parts)


def gated_loss(
    model: VisionTransformer,
    image: torch.Tensor,
    label: torch.Tensor,
    block: int,
    linear: str,
    gate: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Loss of one sample with what enters one linear map multiplied by a gate."""
    owner = model.blocks[block].attn if linear == "proj" else model.blocks[block].mlp
    hook = getattr(owner, linear).register_forward_pre_hook(lambda _, args: (gate(args[0]),))
    try:
        return F.cross_entropy(model(image[None]), label[None])
    finally:
        hook.remove()


def gate_gradient(
    model: VisionTransformer,
    image: torch.Tensor,
    label: torch.Tensor,
    block: int,
    linear: str,
    start: int,
    stop: int,
) -> float:
    """Derivative by a gate of 1 on channels start to stop, by autograd through the gate itself."""
    gate = torch.ones((), dtype=image.dtype, requires_grad=True)

    def apply(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., :start], gate * x[..., start:stop], x[..., stop:]], -1)

    (gradient,) = torch.autograd.grad(gated_loss(model, image, label, block, linear, apply), [gate])
    return float(gradient)


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 3, 28, 28).double(), torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "init_values": 0.1}])
@pytest.mark.parametrize("heads_per_subnet", [1, (1, 2, 3)])
def test_fisher_of_samples_is_the_squared_gradient_of_each_sample(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
    options: dict,
    heads_per_subnet: int | tuple[int, ...],
) -> None:
    model = small_vit(depth=2, **options)
    workload = workload_of(model, heads_per_subnet, (2, 1, 3))
    images, labels = samples
    got = score_samples(model, images, labels, workload, ["fisher", "gradient_norm"])
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    for i in range(6):
        model.zero_grad()
        F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
        for s in range(workload.num_subnets):
            wanted = squared_gradient(model, workload, s)
            assert got["fisher"][s, i] == pytest.approx(wanted, rel=1e-9)
            assert got["gradient_norm"][s, i] == pytest.approx(wanted**0.5, rel=1e-9)


@pytest.mark.parametrize("heads_per_subnet", [1, (1, 2, 3)])
def test_taylor_is_the_derivative_by_a_gate_on_each_head_and_hidden_group(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
    heads_per_subnet: int | tuple[int, ...],
) -> None:
    model = small_vit(depth=2, init_values=0.5)
    workload = workload_of(model, heads_per_subnet, (2, 1, 3))
    images, labels = samples
    got = score_samples(model, images, labels, workload, ["taylor"])["taylor"]
    head_dim = workload.shape.head_dim
    for i in (0, 3, 5):
        for s, subnet in enumerate(workload.partition.subnets):
            ranges = [("proj", h * head_dim, (h + 1) * head_dim) for h in subnet.heads]
            ranges.append(("fc2", subnet.hidden_start, subnet.hidden_stop))
            wanted = sum(
                abs(gate_gradient(model, images[i], labels[i], subnet.block, *where))
                for where in ranges
            )
            assert got[s, i] == pytest.approx(wanted, rel=1e-8)


def test_activation_norm_is_that_of_what_enters_the_output_maps(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = small_vit(depth=2)
    workload = workload_of(model, (1, 2, 3), (2, 1, 3))
    images, labels = samples
    got = score_samples(model, images, labels, workload, ["activation_norm"])["activation_norm"]
    head_dim = workload.shape.head_dim
    for s, subnet in enumerate(workload.partition.subnets):
        seen: dict[str, torch.Tensor] = {}

        def keep(name: str, x: torch.Tensor, seen: dict = seen) -> torch.Tensor:
            seen[name] = x.detach()[0]
            return x

        for i in range(len(images)):
            for linear in ("proj", "fc2"):
                gated_loss(
                    model, images[i], labels[i], subnet.block, linear,
                    lambda x, linear=linear: keep(linear, x),
                )  # fmt: skip
            values = [
                seen["proj"][:, h * head_dim : (h + 1) * head_dim].flatten() for h in subnet.heads
            ]
            values.append(seen["fc2"][:, subnet.hidden_start : subnet.hidden_stop].flatten())
            assert got[s, i] == pytest.approx(float(torch.cat(values).norm()), rel=1e-9)


def test_scores_of_samples_do_not_depend_on_their_neighbours(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = small_vit()
    workload = workload_of(model, 2, (2, 1, 3))
    images, labels = samples
    together = score_samples(model, images, labels, workload, SAMPLE_SCORES)
    apart = score_samples(model, images[2:4], labels[2:4], workload, SAMPLE_SCORES)
    for name in SAMPLE_SCORES:
        assert np.allclose(together[name][:, 2:4], apart[name], rtol=1e-9)


def test_fisher_of_microbatches_is_the_squared_gradient_of_their_mean_loss(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = small_vit(depth=2)
    workload = workload_of(model, (1, 2, 3), (2, 1, 3))
    images, labels = samples
    got = fisher_of_microbatches(model, images, labels, workload)
    assert all(p.grad is None for p in model.parameters())
    for i, own in enumerate((slice(0, 2), slice(2, 3), slice(3, 6))):
        model.zero_grad()
        F.cross_entropy(model(images[own]), labels[own]).backward()
        for s in range(workload.num_subnets):
            assert got[s, i] == pytest.approx(squared_gradient(model, workload, s), rel=1e-9)


def test_weight_magnitude_is_the_norm_of_a_subnets_weights(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(depth=2)
    workload = workload_of(model, 2)
    got = weight_magnitude(model, workload)
    for s in range(workload.num_subnets):
        values = torch.cat(
            [p.flatten() for p in subnet_parts(model, workload, s, lambda p: p.detach())]
        )
        assert got[s] == pytest.approx(float(values.norm()), rel=1e-9)


def test_a_micro_batch_gets_the_mean_over_its_samples(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    samples: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = small_vit(depth=1)
    workload = workload_of(model, 3, (2, 1, 3))
    images, labels = samples
    by_sample = score_samples(model, images, labels, workload, ["taylor", "activation_norm"])
    scores = score_minibatch(
        model, images, labels, workload, forward_score="activation_norm", backward_score="taylor"
    )
    for i, own in enumerate((slice(0, 2), slice(2, 3), slice(3, 6))):
        assert np.allclose(scores.forward[:, i], by_sample["activation_norm"][:, own].mean(1))
        assert np.allclose(scores.backward[:, i], by_sample["taylor"][:, own].mean(1))
    assert mean_over_microbatches(np.arange(6.0)[None], workload).tolist() == [[0.5, 2.0, 4.0]]


@pytest.mark.parametrize("forward_score", score_names())
@pytest.mark.parametrize("backward_score", score_names())
def test_forward_and_backward_scores_are_chosen_apart(
    small_vit: Callable[..., VisionTransformer],
    workload_of: Callable[..., Workload],
    forward_score: str,
    backward_score: str,
) -> None:
    model = small_vit(torch.float32, depth=1)
    workload = workload_of(model, 3)
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 28, 28), torch.randint(5, (8,))
    scores = score_minibatch(
        model, images, labels, workload, forward_score=forward_score, backward_score=backward_score
    )
    same = score_minibatch(
        model, images, labels, workload, forward_score=forward_score, backward_score=forward_score
    )
    assert scores.backward.shape == (workload.num_subnets, workload.num_microbatches)
    assert np.allclose(scores.forward, same.forward)
    assert (scores.forward > 0).all()


def test_scores_of_minibatches_and_their_mean(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 3)
    scores = [
        score_minibatch(model, torch.randn(8, 3, 28, 28), torch.randint(5, (8,)), workload)
        for _ in range(2)
    ]
    assert (scores[0].forward == scores[0].forward[:, :1]).all()
    mean = mean_scores(scores)
    assert isinstance(mean, Scores)
    assert np.allclose(mean.backward, (scores[0].backward + scores[1].backward) / 2)


def test_an_unknown_score_is_refused_with_the_names_that_there_are(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32, depth=1)
    workload = workload_of(model, 3)
    images, labels = torch.randn(8, 3, 28, 28), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(InputError, match=r"'hessian' is unknown.*fisher, gradient_norm, taylor"):
        score_minibatch(model, images, labels, workload, backward_score="hessian")
    with pytest.raises(InputError, match="'taylor' is registered already"):
        register_score("taylor", ScoreKind())


def test_scoring_is_charged_what_it_computes(
    small_vit: Callable[..., VisionTransformer], workload_of: Callable[..., Workload]
) -> None:
    model = small_vit(torch.float32)
    workload = workload_of(model, 1, (16, 16))
    dense = uniform_schedule(workload.num_subnets, 2, Operation.FULL)
    step = step_flops(workload, dense)
    free = scoring_flops(model, workload, "weight_magnitude", "uniform")
    forward = scoring_flops(model, workload, "weight_magnitude", "activation_norm")
    input_gradients = scoring_flops(model, workload, "weight_magnitude", "taylor")
    whole = scoring_flops(model, workload, "weight_magnitude", "fisher_of_microbatches")
    assert free == 0
    lanes = attention_flops(workload).forward.sum() + mlp_flops(workload).forward.sum()
    assert forward == pytest.approx(lanes + trunk_flops(workload).forward.sum(), rel=1e-9)
    assert step / 2 < input_gradients < 0.75 * step
    assert whole == pytest.approx(step, rel=0.05)
