"""One pass over samples that keeps what scores of subnets are computed from.

Gradients are those of the sum of the samples' losses with respect to activations, so that each
sample's own gradient can be told apart; no weight gradient is computed.
Shapes: B samples, N tokens, D width, H heads of size d, M hidden units.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearTrace:
    """What a linear map saw.

    Attributes:
        x: input ``[B, N, in]``.
        grad_out: gradient of the losses with respect to the output, ``[B, N, out]``; None after a
            pass without backward.
        grad_x: the same with respect to the input, where it was asked for.
        has_bias: whether a bias was added.
    """

    x: Tensor
    grad_out: Tensor | None = None
    grad_x: Tensor | None = None
    has_bias: bool = True

    @cached_property
    def gram_x(self) -> Tensor:
        """Products of every two tokens' inputs, ``[B, N, N]``."""
        return self.x @ self.x.mT

    @cached_property
    def gram_out(self) -> Tensor:
        """Products of every two tokens' output gradients, ``[B, N, N]``."""
        assert self.grad_out is not None
        return self.grad_out @ self.grad_out.mT


@dataclass(frozen=True)
class BlockTrace:
    """The four linear maps of a block: ``qkv``, ``proj``, ``fc1``, ``fc2``."""

    qkv: LinearTrace
    proj: LinearTrace
    fc1: LinearTrace
    fc2: LinearTrace


def trace_blocks(
    model: VisionTransformer, images: Tensor, labels: Tensor, *, backward: bool
) -> list[BlockTrace]:
    """Run the model once in evaluation mode; its gradients stay as they are.

    Args:
        model: one that `runtime.models.check_supported` accepts.
        images: normalised, ``[B, 3, height, width]``.
        labels: int64 ``[B]``.
        backward: whether gradients are needed, too.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.set_grad_enabled(backward), _recorded(model) as records:
            logits = model(images)
            if not backward:
                return _traces(records, {})
            losses = F.cross_entropy(logits, labels, reduction="sum")
            wanted = _wanted(records)
            grads = torch.autograd.grad(losses, list(wanted.values()))
            return _traces(records, dict(zip(wanted, grads, strict=True)))
    finally:
        model.train(was_training)


_NAMES = ("qkv", "proj", "fc1", "fc2")
_Records = list[dict[str, tuple[Tensor, Tensor, bool]]]


@contextmanager
def _recorded(model: VisionTransformer) -> Iterator[_Records]:
    """Input and output of the linear maps of every block, filled as the model runs."""
    records: _Records = [{} for _ in range(len(model.blocks))]
    with ExitStack() as hooks:
        for record, block in zip(records, model.blocks, strict=True):
            for name, linear in zip(_NAMES, _linears(block), strict=True):
                hook = linear.register_forward_hook(_keep(record, name))
                hooks.callback(hook.remove)
        yield records


def _linears(block: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    return block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2


def _keep(record: dict[str, tuple[Tensor, Tensor, bool]], name: str) -> Any:
    def hook(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        record[name] = (inputs[0], output, module.bias is not None)

    return hook


def _wanted(records: _Records) -> dict[tuple[int, str, str], Tensor]:
    """Activations whose gradients are asked for: all outputs, and what proj and fc2 take in."""
    wanted = {}
    for index, record in enumerate(records):
        for name, (x, output, _) in record.items():
            wanted[index, name, "grad_out"] = output
            if name in ("proj", "fc2"):
                wanted[index, name, "grad_x"] = x
    return wanted


def _traces(records: _Records, grads: dict[tuple[int, str, str], Tensor]) -> list[BlockTrace]:
    return [
        BlockTrace(
            **{
                name: LinearTrace(
                    x.detach(),
                    grads.get((index, name, "grad_out")),
                    grads.get((index, name, "grad_x")),
                    has_bias,
                )
                for name, (x, _, has_bias) in record.items()
            }
        )
        for index, record in enumerate(records)
    ]
