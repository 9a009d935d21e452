"""What operations leave of a computation, by masks and autograd: the reference of lanes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation

SHARES = (
    (1, 1, 1, 1),
    (1, 0, 1, 0),
    (0, 1, 1, 1),
    (1, 1, 0, 0),
    (5, 1, 1, 0),
    (0, 0, 1, 1),
    (0, 0, 0, 1),
    (1, 1, 0, 1),
)
"""Of the operations in a random schedule, in their order."""


def random_schedule(
    rng: np.random.Generator, size: tuple[int, int], shares: Sequence[float]
) -> np.ndarray:
    """Every cell drawn alone, int ``[num_subnets, num_microbatches]``."""
    return rng.choice(len(Operation), size=size, p=np.array(shares) / sum(shares))


def by_operation(
    run: Callable[..., Tensor], weights: Sequence[Tensor | None], operation: Tensor
) -> Tensor:
    """What heads or units give to the stream: kept, its weights or itself constant, or zeros.

    Args:
        run: from `weights` to what each head or unit gives.
        weights: those that rest where REST is.
        operation: of each head or unit, to broadcast.
    """
    values = run(*weights)
    resting = run(*(None if w is None else w.detach() for w in weights))
    return (
        values * (operation == Operation.FULL)
        + resting * (operation == Operation.REST)
        + values.detach() * (operation == Operation.FORWARD_ONLY)
    )


def attention(
    x: Tensor,
    shape: ModelShape,
    weight_in: Tensor,
    bias_in: Tensor | None,
    weight_out: Tensor,
    key_mask: Tensor | None = None,
) -> Tensor:
    """What each head makes of ``[B, N, D]``, ``[B, heads, N, D]``; queries, keys and values are
    stacked, and tokens that `key_mask` lacks, bool ``[B, N]``, are not looked at."""
    q, k, v = (
        part.transpose(1, 2)
        for part in F.linear(x, weight_in, bias_in)
        .unflatten(-1, (3, shape.num_heads, -1))
        .unbind(2)
    )
    scores = q @ k.mT / shape.head_dim**0.5
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None, :], -torch.inf)
    per_head = weight_out.unflatten(1, (shape.num_heads, -1))
    return torch.einsum("bhnd,whd->bhnw", scores.softmax(-1) @ v, per_head)


def two_maps(
    x: Tensor,
    activation: Callable[[Tensor], Tensor],
    weight_in: Tensor,
    bias_in: Tensor,
    weight_out: Tensor,
) -> Tensor:
    """What each hidden unit makes of ``[B, N, D]``, ``[B, units, N, D]``."""
    hidden = activation(F.linear(x, weight_in, bias_in))
    return torch.einsum("bnu,wu->bunw", hidden, weight_out)


def loss_of_running(
    logits: Tensor, labels: Tensor, workload: Workload, schedule: np.ndarray
) -> Tensor:
    """Mean cross-entropy of the samples that pass a subnet; of all where none does."""
    runs = (schedule != Operation.SHORTCUT).any(axis=0)
    in_loss = torch.from_numpy(np.repeat(runs | ~runs.any(), workload.samples))
    return F.cross_entropy(logits[in_loss], labels[in_loss])
