"""Steps that may be recorded as a CUDA graph, checked without a GPU: on meta tensors what reads a
value fails, and what touches the host shows."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2ft_sched.cluster.device_presets import ACCELERATOR
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from decoder_models import padded, small_decoder
from rank_cases import NUM_TOKENS, small_bert
from runtime.captured_step import RUNS_BEFORE, FixedStep
from runtime.lanes.slice_schedule import slice_schedule
from runtime.lanes.slices import ScheduleSlices
from runtime.models.build import shape_of
from runtime.models.peft_adapters import add_adapters
from runtime.partitioned_step import forward_backward


class _HostOperations(TorchDispatchMode):
    """Counts operations on tensors of the host, allocations of none left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, Tensor)]
        if any(t.device.type == "cpu" and t.numel() for t in tensors):
            self.counts[func._schema.name] += 1
        return made


def vit() -> tuple[nn.Module, Tensor, Tensor]:
    model = timm.create_model("test_vit", img_size=32, num_classes=5)
    return model, torch.randn(6, 3, 32, 32), torch.arange(6) % 5


def bert() -> tuple[nn.Module, Tensor, Tensor]:
    ids = torch.arange(6 * NUM_TOKENS).view(6, NUM_TOKENS) % 20
    return small_bert("cpu").float(), ids, torch.arange(6) % 5


def decoder() -> tuple[nn.Module, Tensor, Tensor]:
    return small_decoder("qwen3", torch.float32), *padded(6)


def with_schedule(
    model: nn.Module, lora: Lora | None, rng: np.random.Generator
) -> tuple[Workload, np.ndarray]:
    if lora is not None:
        add_adapters(model, lora)
    shape = shape_of(model)
    workload = Workload(shape, partition_by_heads(shape, 1), (2, 1, 3), lora=lora)
    return workload, rng.integers(3, size=(workload.num_subnets, 3)).astype(np.int8)


@pytest.mark.parametrize("lora", [None, Lora(3, 4.5)], ids=["whole", "LoRA"])
@pytest.mark.parametrize("build", [vit, bert, decoder])
def test_a_step_that_was_prepared_neither_reads_nor_sends(
    build: Callable[[], tuple[nn.Module, Tensor, Tensor]], lora: Lora | None
) -> None:
    model, inputs, labels = build()
    workload, schedule = with_schedule(model, lora, np.random.default_rng(3))
    slices = slice_schedule(workload, schedule, 2, device=ACCELERATOR)
    model, inputs, labels = (part.to("meta") for part in (model, inputs, labels))
    forward_backward(model, inputs, labels, slices)
    model.zero_grad()
    with _HostOperations() as host:
        forward_backward(model, inputs, labels, slices)
    assert not host.counts


def test_a_fixed_step_is_the_step_where_nothing_is_captured() -> None:
    model, inputs, labels = vit()
    workload, schedule = with_schedule(model, None, np.random.default_rng(3))
    step = partial(_step, model, slice_schedule(workload, schedule))
    wanted = step(inputs, labels)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    fixed = FixedStep(model, step)
    for _ in range(RUNS_BEFORE + 2):
        model.zero_grad()
        assert fixed(inputs, labels, may_capture=True) == wanted
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("build", [vit, bert, decoder])
def test_a_replayed_step_is_the_step(
    build: Callable[[], tuple[nn.Module, Tensor, Tensor]],
) -> None:
    model, inputs, labels = build()
    workload, schedule = with_schedule(model, None, np.random.default_rng(3))
    model, inputs, labels = (part.to("cuda") for part in (model, inputs, labels))
    step = partial(_step, model, slice_schedule(workload, schedule))
    fixed = FixedStep(model, step)
    for turn in range(RUNS_BEFORE + 2):
        own, own_labels = inputs.roll(turn, 0), labels.roll(turn, 0)
        model.zero_grad()
        wanted = step(own, own_labels)
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        torch.testing.assert_close(fixed(own, own_labels, may_capture=True), wanted)
        found = [p.grad for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(found, gradients)


def _step(model: nn.Module, slices: ScheduleSlices, inputs: Tensor, labels: Tensor) -> Tensor:
    return forward_backward(model, inputs, labels, slices)
