"""Next-token loss under a vocabulary head, without all logits at once.

The loss of a mini-batch is the mean over its counted tokens. A micro-batch, a rank or a replica
gives a sum, and whoever knows the whole mini-batch divides by its `num_counted_tokens`: so the
gradient does not depend on how the mini-batch is cut.

Shapes: B samples, N tokens, D width, V vocabulary. Labels are int64 ``[B, N]`` as transformers
takes them: not shifted, token n is foretold at n - 1, `IGNORED` is not counted.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2ft_sched.costs.vocabulary_head import HEAD_CHUNK_TOKENS
from runtime.data.dataset import IGNORED
from runtime.lanes.products import compute_dtype


def next_token_loss(
    features: Tensor, weight: Tensor, labels: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Sum of the cross-entropies of the counted tokens, a scalar.

    Logits of `HEAD_CHUNK_TOKENS` tokens exist at a time, and their gradient is made at once: for
    backward only the gradients of features and weight are kept. All tokens pass the head, counted
    or not, so that its work does not depend on the data. Products are in autocast's type, or the
    weight's; losses in float32 or wider.

    Args:
        features: what the head sees, ``[B, N, D]``; differentiable once.
        weight: of the head, ``[V, D]``; differentiable once where it requires a gradient.
        labels: int64 ``[B, N]``.
        smoothing: share of each target that is spread evenly over the vocabulary.
    """
    return _HeadLoss.apply(features, weight, labels, smoothing)


def next_token_outcome(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the losses of the counted tokens, and how many of them are foretold right.

    Both are scalars without graph; arguments as of `next_token_loss`.
    """
    with torch.no_grad():
        loss = torch.zeros((), dtype=_wide(features.dtype), device=features.device)
        right = torch.zeros((), dtype=torch.int64, device=features.device)
        narrow = weight.to(compute_dtype(weight))
        for x, targets in _chunks(features, labels):
            logits = F.linear(x.to(narrow.dtype), narrow).to(loss.dtype)
            loss += F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
            right += (logits.argmax(1) == targets).sum()
        return loss, right


def num_counted_tokens(labels: Tensor) -> Tensor:
    """Of each sample, int64 ``[B]``."""
    return (labels[:, 1:] != IGNORED).sum(1)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, labels: Tensor, smoothing: float
    ) -> Tensor:
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        loss = torch.zeros((), dtype=_wide(features.dtype), device=features.device)
        narrow = weight.to(compute_dtype(weight))
        parts = []
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        for x, targets in _chunks(features, labels):
            x = x.to(narrow.dtype)
            logits = F.linear(x, narrow).to(loss.dtype)
            loss += _become_gradient(logits, targets, smoothing)
            if needs_x or needs_weight:
                grad = logits.to(narrow.dtype)
                if needs_x:
                    parts.append((grad @ narrow).to(features.dtype))
                if grad_weight is not None:
                    _add_product(grad_weight, grad.T, x)
                del grad
            del logits  # before the next chunk has its own
        grad_features = torch.cat(parts).view_as(features) if needs_x else None
        ctx.gradients = grad_features, grad_weight
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the next-token loss has passed its gradients on already")
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(grad_loss.to(gradient.dtype))
        return *gradients, None, None


def _become_gradient(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Put the gradient of the sum of losses in the place of logits ``[C, V]``, and return the sum.

    No second tensor of that size is made: a logarithm of a sum of exponentials would.
    """
    is_counted = targets != IGNORED
    own, spread = targets.clamp_min(0)[:, None], smoothing / logits.shape[1]
    logits -= logits.amax(1, keepdim=True)
    target = (1 - smoothing) * logits.gather(1, own)
    if smoothing:
        target += spread * logits.sum(1, keepdim=True)
    total = logits.exp_().sum(1, keepdim=True)
    loss = ((total.log() - target).squeeze(1) * is_counted).sum()
    logits.div_(total).scatter_add_(1, own, logits.new_full(own.shape, smoothing - 1.0))
    if smoothing:
        logits.sub_(spread)
    logits.mul_(is_counted[:, None])
    return loss


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to `total`, without a tensor of its size where types allow it."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _chunks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Features ``[C, D]`` and what follows each, int64 ``[C]``, of some tokens after others."""
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    flat = features.reshape(-1, features.shape[-1])
    return zip(flat.split(HEAD_CHUNK_TOKENS), targets.split(HEAD_CHUNK_TOKENS), strict=True)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
