"""Rescaled gradients and scores from the backward pass, against slow references."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2ft_sched.model.lora import Lora
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from lane_devices import LAUNCH_BOUND
from runtime.lanes.hooks import TaylorWatch, hooked, rescaled, where_seen
from runtime.lanes.slice_schedule import slice_schedule
from runtime.models.peft_adapters import add_adapters
from runtime.partitioned_step import forward_backward
from runtime.scoring.minibatch_scores import score_minibatch

SIZES = (2, 1, 3, 2)
CPU = torch.device("cpu")


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(sum(SIZES), 3, 28, 28, dtype=torch.float64, generator=generator)
    return images, torch.randint(5, (sum(SIZES),), generator=generator)


def gradients(model, slices) -> list[Tensor]:
    model.zero_grad()
    forward_backward(model, *batch(), slices)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def random_schedule(workload, operations) -> np.ndarray:
    shape = (workload.num_subnets, workload.num_microbatches)
    return np.random.default_rng(0).choice(operations, shape)


def masked_reference(model, workload, schedule) -> list[Tensor]:
    """Autograd through a dense model in which every subnet's output is masked by hand."""
    images, labels = batch()
    sample_of = np.repeat(np.arange(len(SIZES)), SIZES)
    kept = (schedule == Operation.FULL) @ np.array(SIZES)
    factor = sum(SIZES) / np.maximum(kept, 1)
    head_dim = workload.shape.head_dim
    model.zero_grad()
    x = model.norm_pre(model._pos_embed(model.patch_embed(images)))

    def branch(normed, block, name):
        total = 0
        for s, subnet in enumerate(workload.partition.subnets):
            if subnet.block != block:
                continue
            layer = model.blocks[block]
            if name == "mlp":
                units = slice(subnet.hidden_start, subnet.hidden_stop)
                fc1, fc2 = layer.mlp.fc1, layer.mlp.fc2
                inner = layer.mlp.act(F.linear(normed, fc1.weight[units], fc1.bias[units]))
                out = inner @ fc2.weight[:, units].t()
            else:
                attn, own = layer.attn, []
                for head in subnet.heads:
                    rows = slice(head * head_dim, (head + 1) * head_dim)
                    q, k, v = (
                        F.linear(normed, w[rows], b[rows])
                        for w, b in zip(
                            attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3), strict=True
                        )
                    )
                    mixed = (q @ k.mT / head_dim**0.5).softmax(-1) @ v
                    own.append(mixed @ attn.proj.weight[:, rows].t())
                out = sum(own)
            operation = torch.from_numpy(schedule[s][sample_of])[:, None, None]
            scaled = out * factor[s]
            scaled = scaled + (out - scaled).detach()
            out = torch.where(operation == Operation.FULL, scaled, out.detach())
            total = total + torch.where(operation == Operation.SHORTCUT, 0.0, out)
        return total

    for index, layer in enumerate(model.blocks):
        x = x + layer.ls1(branch(layer.norm1(x), index, "attention") + layer.attn.proj.bias)
        x = x + layer.ls2(branch(layer.norm2(x), index, "mlp") + layer.mlp.fc2.bias)
    F.cross_entropy(model.forward_head(model.norm(x)), labels).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("heads_per_subnet", [1, (4, 2)])
@pytest.mark.parametrize("num_waves", [1, 2])
@pytest.mark.parametrize("device", [None, LAUNCH_BOUND])
def test_rescaled_gradients_equal_a_masked_reference(
    small_vit, workload_of, heads_per_subnet, num_waves, device
):
    model = small_vit()
    workload = workload_of(model, heads_per_subnet, SIZES)
    schedule = random_schedule(workload, [Operation.FULL, Operation.FORWARD_ONLY, 0, 2])
    slices = slice_schedule(workload, schedule, num_waves, device)
    slices = rescaled(slices, workload, schedule, CPU)
    wanted = masked_reference(model, workload, schedule)
    for got, reference in zip(gradients(model, slices), wanted, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-5, atol=1e-7)


def test_all_full_is_left_as_it_is(small_vit, workload_of):
    model = small_vit()
    workload = workload_of(model, 1, SIZES)
    schedule = uniform_schedule(workload.num_subnets, len(SIZES), Operation.FULL)
    slices = slice_schedule(workload, schedule)
    again = rescaled(slices, workload, schedule, CPU)
    assert again == slices
    for got, plain in zip(gradients(model, again), gradients(model, slices), strict=True):
        assert torch.equal(got, plain)


def test_a_random_mask_with_rescaling_is_unbiased_in_the_last_block(small_vit, workload_of):
    """With FORWARD_ONLY for what is dropped in the last MLP alone, the mean over all ways to keep
    2 of 4 equal micro-batches is the dense gradient."""
    model = small_vit()
    workload = workload_of(model, 6, (2, 2, 2, 2))
    dense = uniform_schedule(workload.num_subnets, 4, Operation.FULL)
    wanted = gradients(model, slice_schedule(workload, dense))
    total = None
    choices = [(i, j) for i in range(4) for j in range(i)]
    for kept in choices:
        schedule = dense.copy()
        schedule[-1] = Operation.FORWARD_ONLY
        schedule[-1, list(kept)] = Operation.FULL
        slices = rescaled(slice_schedule(workload, schedule), workload, schedule, CPU)
        own = gradients(model, slices)
        total = own if total is None else [a + b for a, b in zip(total, own, strict=True)]
    names = [name for name, _ in model.named_parameters()]
    for name, mean, reference in zip(names, total, wanted, strict=True):
        if "blocks.2.mlp" in name:
            torch.testing.assert_close(mean / len(choices), reference, rtol=1e-9, atol=1e-12)


def test_watched_scores_are_the_taylor_scores(small_vit, workload_of):
    model = small_vit()
    workload = workload_of(model, (4, 2), SIZES)
    wanted = score_minibatch(model, *batch(), workload, backward_score="taylor").backward
    watch = TaylorWatch(workload, CPU)
    dense = uniform_schedule(workload.num_subnets, len(SIZES), Operation.FULL)
    for num_waves in (1, 2):
        slices = hooked(slice_schedule(workload, dense, num_waves), workload, watch.hook)
        gradients(model, slices)
        np.testing.assert_allclose(watch.take(dense), wanted, rtol=1e-5)


@pytest.mark.parametrize("device", [None, LAUNCH_BOUND])
def test_watching_knows_what_a_gradient_has_passed(small_vit, workload_of, device):
    model = small_vit()
    workload = workload_of(model, 1, SIZES)
    schedule = random_schedule(workload, [*Operation])
    plain = slice_schedule(workload, schedule, device=device)
    watch = TaylorWatch(workload, CPU)
    watched = gradients(model, hooked(plain, workload, watch.hook))
    for got, wanted in zip(watched, gradients(model, plain), strict=True):
        assert torch.equal(got, wanted)
    scores = where_seen(watch.take(schedule), workload, schedule)
    seen = np.isin(schedule, [Operation.FULL, Operation.REST])
    assert np.array_equal(np.isfinite(scores), seen)
    assert (scores[seen] > 0).all()
    assert watch.take(schedule).sum() == 0


@pytest.mark.parametrize("device", [None, LAUNCH_BOUND])
def test_what_rests_scores_as_what_trains(small_vit, workload_of, device):
    model = small_vit()
    workload = workload_of(model, 2, SIZES)
    dense = uniform_schedule(workload.num_subnets, len(SIZES), Operation.FULL)
    some = random_schedule(workload, [Operation.FULL, Operation.REST])
    watch = TaylorWatch(workload, CPU)
    taken = []
    for schedule in (dense, some):
        slices = slice_schedule(workload, schedule, device=device)
        gradients(model, hooked(slices, workload, watch.hook))
        taken.append(where_seen(watch.take(schedule), workload, schedule))
    np.testing.assert_allclose(taken[1], taken[0], rtol=1e-9)


def test_adapters_that_rest_before_all_that_trains_are_not_seen(small_vit, workload_of):
    model = small_vit()
    add_adapters(model, Lora(2, 2.0))
    workload = replace(workload_of(small_vit(), 3, SIZES), lora=Lora(2, 2.0))
    schedule = uniform_schedule(workload.num_subnets, len(SIZES), Operation.REST)
    schedule[2] = Operation.FULL
    watch = TaylorWatch(workload, CPU)
    gradients(model, hooked(slice_schedule(workload, schedule), workload, watch.hook))
    seen = np.isfinite(where_seen(watch.take(schedule), workload, schedule))
    assert seen.any(axis=1).tolist() == [False, False, True, False, True, True]


def test_what_rests_beside_what_runs_forward_is_rescaled(small_vit, workload_of):
    model = small_vit()
    workload = workload_of(model, 2, SIZES)
    full = random_schedule(workload, [Operation.FULL, Operation.FORWARD_ONLY])
    rest = np.where(full == Operation.FULL, Operation.REST, full)
    made = [
        gradients(model, rescaled(slice_schedule(workload, s), workload, s, CPU))
        for s in (full, rest)
    ]
    names = [name for name, _ in model.named_parameters()]
    for name, trained, resting in zip(names, *made, strict=True):
        if "norm" in name or "embed" in name:
            torch.testing.assert_close(resting, trained, rtol=1e-9, atol=1e-12)
