"""The next-token loss under a vocabulary head, against all logits at once."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from d2ft_sched.costs.vocabulary_head import HEAD_CHUNK_TOKENS
from runtime.data.dataset import IGNORED
from runtime.families.decoders.next_token_loss import (
    next_token_loss,
    next_token_outcome,
    num_counted_tokens,
)


def _case(num_samples: int, num_tokens: int, vocabulary: int, seed: int, share: float = 0.6) -> Any:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(num_samples, num_tokens, 6, dtype=torch.float64, generator=rng)
    weight = torch.randn(vocabulary, 6, dtype=torch.float64, generator=rng)
    labels = torch.randint(vocabulary, (num_samples, num_tokens), generator=rng)
    labels[torch.rand(labels.shape, generator=rng) > share] = IGNORED
    return features.requires_grad_(), weight.requires_grad_(), labels


def _plain(features: Tensor, weight: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    logits = (features @ weight.T)[:, :-1].flatten(0, 1)
    return F.cross_entropy(
        logits,
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


@given(
    num_samples=st.integers(1, 3),
    num_tokens=st.sampled_from([1, 2, 17, HEAD_CHUNK_TOKENS, HEAD_CHUNK_TOKENS + 1]),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_loss_and_gradients_are_those_of_all_logits_at_once(
    num_samples: int, num_tokens: int, seed: int, share: float, smoothing: float
) -> None:
    features, weight, labels = _case(num_samples, num_tokens, 11, seed, share)
    loss = next_token_loss(features, weight, labels, smoothing)
    expected = _plain(features, weight, labels, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-10)
    own = torch.autograd.grad(loss / 3, (features, weight))
    for one, other in zip(own, torch.autograd.grad(expected / 3, (features, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    outcome, right = next_token_outcome(features, weight, labels)
    plain = _plain(features, weight, labels).detach()
    torch.testing.assert_close(outcome, plain, rtol=1e-12, atol=1e-10)
    guesses = (features @ weight.T)[:, :-1].argmax(2)
    assert int(right) == int((guesses == labels[:, 1:]).sum())


@given(seed=st.integers(0, 99), cuts=st.sets(st.integers(1, 5)))
def test_a_minibatch_has_one_gradient_however_it_is_cut(seed: int, cuts: set[int]) -> None:
    features, weight, labels = _case(6, 5, 7, seed)
    counted = num_counted_tokens(labels)
    assert int(counted.sum()) == int((labels[:, 1:] != IGNORED).sum())
    expected = torch.autograd.grad(_plain(features, weight, labels) / counted.sum(), weight)[0]
    total = torch.zeros_like(weight)
    for i, j in zip([0, *sorted(cuts)], [*sorted(cuts), 6], strict=True):
        loss = next_token_loss(features[i:j], weight, labels[i:j]) / counted.sum()
        total += torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)


class _Largest(TorchDispatchMode):
    """Remembers how large the largest tensor was that any operation gave."""

    num_values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor):
                self.num_values = max(self.num_values, one.numel())
        return result


def test_logits_are_never_whole() -> None:
    vocabulary = 50
    features, weight, labels = _case(3, HEAD_CHUNK_TOKENS, vocabulary, 0)
    with _Largest() as largest:
        next_token_loss(features, weight, labels).backward()
        next_token_outcome(features, weight, labels)
    assert largest.num_values == HEAD_CHUNK_TOKENS * vocabulary


def test_a_frozen_head_gets_no_gradient_and_pays_for_none() -> None:
    features, weight, labels = _case(2, 9, 11, 0)
    loss = next_token_loss(features, weight.detach(), labels)
    loss.backward()
    assert features.grad is not None
    assert weight.grad is None
    assert not next_token_loss(features.detach(), weight.detach(), labels).requires_grad


@pytest.mark.parametrize("is_autocast", [True, False])
def test_narrow_products_give_losses_in_float32(is_autocast: bool) -> None:
    features, weight, labels = _case(2, 9, 11, 0)
    kind = torch.float32 if is_autocast else torch.bfloat16
    x = features.detach().to(kind).requires_grad_()
    own = weight.detach().to(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        loss = next_token_loss(x, own, labels)
        outcome = next_token_outcome(x, own, labels)[0]
    loss.backward()
    assert x.grad is not None
    assert (loss.dtype, outcome.dtype, x.grad.dtype) == (torch.float32, torch.float32, kind)
    expected = _plain(features, weight, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=0.02, atol=0)
    grad = torch.autograd.grad(expected, features)[0]
    torch.testing.assert_close(x.grad.double(), grad, rtol=0.1, atol=0.05)
