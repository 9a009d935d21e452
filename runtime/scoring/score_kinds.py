"""Scores of subnets by name: one function for each.

Scores of samples are sums over a subnet's own parameters, heads and hidden units, and are computed
for every sample from one `trace_blocks`; a micro-batch gets the mean over its samples. None is
normalised here: `d2ft_sched.problem.scores.Scores.values` divides each table by its mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import Subnet
from d2ft_sched.model.workload import Workload
from runtime.families.known_families import family_of
from runtime.families.low_rank import low_rank_of
from runtime.families.sublayer import Sublayer
from runtime.scoring.score_pass import BlockTrace, LinearTrace

SampleScore = Callable[[BlockTrace, Subnet, int], Tensor]
"""From a block's trace, a subnet of the block and the head size to a score per sample, ``[B]``."""


@dataclass(frozen=True)
class ScoreKind:
    """How a score is computed; exactly one of the three functions is given.

    Attributes:
        of_samples: from a trace to ``[num_samples]``.
        of_subnets: from the model alone to ``[num_subnets]``, the same for every micro-batch.
        of_microbatches: from model, inputs, labels and workload to
            ``[num_subnets, num_microbatches]``, for what is no mean over samples.
        backward: whether `of_samples` needs gradients.
    """

    of_samples: SampleScore | None = None
    of_subnets: Callable[[nn.Module, Workload], np.ndarray] | None = None
    of_microbatches: Callable[[nn.Module, Tensor, Tensor, Workload], np.ndarray] | None = None
    backward: bool = False


def fisher(trace: BlockTrace, subnet: Subnet, head_dim: int) -> Tensor:
    """Squared norm of the gradient of a sample's loss with respect to the subnet's parameters.

    Those that train: with adapters its rows and columns of them, without what its block shares.
    The mean over samples is the trace of the empirical Fisher information. Norms of per-sample
    weight gradients come from Gram matrices over tokens (arXiv 1510.01799, 2110.05679).
    """
    own = _columns(subnet.heads, head_dim)
    units = slice(subnet.hidden_start, subnet.hidden_stop)
    total = _weight_columns(trace.heads_out.trained_columns, own)
    total = total + _weight_columns(trace.hidden_out.trained_columns, units)
    maps = trace.heads_in.trained_rows
    num_stacked = 3 // len(maps)
    rows = torch.cat([own + k * trace.heads_out.x.shape[-1] for k in range(num_stacked)])
    for one in maps:
        total = total + _rows_and_bias(one, rows)
    for one in trace.hidden_in.trained_rows:
        total = total + _rows_and_bias(one, units)
    return total


def gradient_norm(trace: BlockTrace, subnet: Subnet, head_dim: int) -> Tensor:
    """L2 norm of the gradient of a sample's loss with respect to the subnet's parameters."""
    return fisher(trace, subnet, head_dim).sqrt()


def taylor(trace: BlockTrace, subnet: Subnet, head_dim: int) -> Tensor:
    """First-order change of a sample's loss if heads and hidden units are left out, one by one.

    The derivative by a gate of 1 on each head's output and on the subnet's hidden units as a group
    (arXiv 1905.10650): absolute values, summed over the heads and the group.
    """
    assert trace.heads_out.grad_x is not None
    assert trace.hidden_out.grad_x is not None
    own = _columns(subnet.heads, head_dim)
    by_channel = (trace.heads_out.x[..., own] * trace.heads_out.grad_x[..., own]).sum(1)
    heads = by_channel.unflatten(-1, (len(subnet.heads), head_dim)).sum(-1).abs().sum(-1)
    units = slice(subnet.hidden_start, subnet.hidden_stop)
    return (
        heads
        + (trace.hidden_out.x[..., units] * trace.hidden_out.grad_x[..., units]).sum((1, 2)).abs()
    )


def activation_norm(trace: BlockTrace, subnet: Subnet, head_dim: int) -> Tensor:
    """L2 norm of the subnet's head outputs and hidden units over a sample's tokens."""
    heads = trace.heads_out.x[..., _columns(subnet.heads, head_dim)]
    units = trace.hidden_out.x[..., subnet.hidden_start : subnet.hidden_stop]
    return (heads.square().sum((1, 2)) + units.square().sum((1, 2))).sqrt()


def weight_magnitude(model: nn.Module, workload: Workload) -> np.ndarray:
    """L2 norm of each subnet's own parameters, float ``[num_subnets]``."""
    return np.sqrt(sum_per_subnet(model, workload, lambda p: p.detach().square()))


def fisher_of_microbatches(
    model: nn.Module, inputs: Tensor, labels: Tensor, workload: Workload
) -> np.ndarray:
    """Squared norm of the gradient of a micro-batch's mean loss, per subnet; one dense step.

    Unlike the mean of `fisher` over the samples it counts how far their gradients agree.
    The model's gradients are discarded.

    Returns:
        float ``[num_subnets, num_microbatches]``.
    """
    columns = []
    sizes = list(workload.microbatch_samples)
    for part, targets in zip(inputs.split(sizes), labels.split(sizes), strict=True):
        model.zero_grad()
        F.cross_entropy(model(part), targets).backward()
        columns.append(sum_per_subnet(model, workload, _squared_gradient, trained=True))
    model.zero_grad()
    return np.stack(columns, axis=1)


_KINDS: dict[str, ScoreKind] = {
    "fisher": ScoreKind(of_samples=fisher, backward=True),
    "gradient_norm": ScoreKind(of_samples=gradient_norm, backward=True),
    "taylor": ScoreKind(of_samples=taylor, backward=True),
    "activation_norm": ScoreKind(of_samples=activation_norm),
    "weight_magnitude": ScoreKind(of_subnets=weight_magnitude),
    "fisher_of_microbatches": ScoreKind(of_microbatches=fisher_of_microbatches),
    "uniform": ScoreKind(of_subnets=lambda _, workload: np.ones(workload.num_subnets)),
}


def score_names() -> tuple[str, ...]:
    """Names that `score_kind` knows."""
    return tuple(_KINDS)


def score_kind(name: str) -> ScoreKind:
    """The score of that name.

    Raises:
        InputError: there is none.
    """
    if name not in _KINDS:
        raise InputError(f"score {name!r} is unknown; it must be one of {', '.join(_KINDS)}")
    return _KINDS[name]


def register_score(name: str, kind: ScoreKind) -> None:
    """Add a score of one's own under a new name.

    Raises:
        InputError: the name is taken.
    """
    if name in _KINDS:
        raise InputError(f"score {name!r} is registered already; choose another name")
    _KINDS[name] = kind


def sum_per_subnet(
    model: nn.Module, workload: Workload, of: Callable[[Tensor], Tensor], *, trained: bool = False
) -> np.ndarray:
    """Sum of ``of(parameter)`` over every subnet's part of each parameter, ``[num_subnets]``.

    Args:
        model: with or without adapters.
        workload: subnets.
        of: from a parameter to values of its shape.
        trained: whether the parameters are those that train, adapters where there are any; else
            those of the maps themselves.
    """
    num_heads = workload.shape.num_heads
    per_head, per_unit = [], []
    for attention, mlp in family_of(model).blocks(model):
        (rows, columns), (hidden_rows, hidden_columns) = (
            _sums_of_units(sublayer, of, trained) for sublayer in (attention, mlp)
        )
        heads = columns.unflatten(0, (num_heads, -1)).sum(1)
        per_head.append(heads + rows.unflatten(0, (3, num_heads, -1)).sum((0, 2)))
        per_unit.append(hidden_rows + hidden_columns)
    head_sums = torch.stack(per_head).double().cpu().numpy()
    unit_sums = torch.stack(per_unit).double().cpu().numpy()
    return np.array(
        [
            head_sums[s.block, list(s.heads)].sum()
            + unit_sums[s.block, s.hidden_start : s.hidden_stop].sum()
            for s in workload.partition.subnets
        ]
    )


def _sums_of_units(
    sublayer: Sublayer, of: Callable[[Tensor], Tensor], trained: bool
) -> tuple[Tensor, Tensor]:
    """Sum of ``of(parameter)`` over each row of the maps in, bias included, and over each column
    of the map out; ``[rows]`` and ``[columns]``."""
    of_out = low_rank_of(sublayer.map_out)
    if trained and of_out is not None:
        ups = [one.up for linear in sublayer.maps_in if (one := low_rank_of(linear))]
        return torch.cat([of(up).sum(1) for up in ups]), of(of_out.down).sum(0)
    parts = []
    for linear in sublayer.maps_in:
        rows = of(linear.weight).sum(1)
        parts.append(rows if linear.bias is None else rows + of(linear.bias))
    return torch.cat(parts), of(sublayer.map_out.weight).sum(0)


def _squared_gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.square()


def _columns(heads: Sequence[int], head_dim: int) -> Tensor:
    """Channels of some heads."""
    return (torch.tensor(heads)[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _rows_and_bias(linear: LinearTrace, rows: Tensor | slice) -> Tensor:
    """Squared norm of each sample's gradient of some rows of the weight and of the bias, ``[B]``.

    A sample's weight gradient is ``grad_out.T @ x`` over tokens; its squared norm is the inner
    product of the two Gram matrices.
    """
    assert linear.grad_out is not None
    grad_out = linear.grad_out[..., rows]
    weight = ((grad_out @ grad_out.mT) * linear.gram_x).sum((1, 2))
    return weight + grad_out.sum(1).square().sum(-1) if linear.has_bias else weight


def _weight_columns(linear: LinearTrace, columns: Tensor | slice) -> Tensor:
    """The same of some columns of the weight, without the bias."""
    x = linear.x[..., columns]
    return (linear.gram_out * (x @ x.mT)).sum((1, 2))
