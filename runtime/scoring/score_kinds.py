"""Scores of subnets by name: one function for each.

Scores of samples are sums over a subnet's own parameters, heads and hidden units, and are computed
for every sample from one `trace_blocks`; a micro-batch gets the mean over its samples. None is
normalised here: `d2ft_sched.problem.scores.Scores.values` divides each table by its mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import Subnet
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from runtime.families.known_families import family_of
from runtime.families.low_rank import low_rank_of
from runtime.families.sublayer import Sublayer
from runtime.lanes.held_units import HEAD_PARTS, unit_rows
from runtime.lanes.units import Units, index_runs
from runtime.scoring.score_pass import BlockTrace, LinearTrace

SampleScore = Callable[[BlockTrace, Subnet, ModelShape], Tensor]
"""From a block's trace, one of its subnets and the model's sizes to a score per sample, ``[B]``."""


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


def fisher(trace: BlockTrace, subnet: Subnet, shape: ModelShape) -> Tensor:
    """Squared norm of the gradient of a sample's loss with respect to the subnet's parameters.

    Those that train: with adapters its rows and columns of them, without what its block shares.
    The mean over samples is the trace of the empirical Fisher information. Norms of per-sample
    weight gradients come from Gram matrices over tokens (arXiv 1510.01799, 2110.05679).
    """
    own = _units(subnet.heads, shape.num_heads, unit_rows(shape, "queries"))
    units = _hidden(subnet, shape)
    total = _weight_columns(trace.heads_out.trained_columns, own)
    total = total + _weight_columns(trace.hidden_out.trained_columns, units)
    for maps, rows in (
        (trace.heads_in, replace(own, parts=unit_rows(shape, *HEAD_PARTS))),
        (trace.hidden_in, replace(units, parts=(1,) * shape.hidden_rows)),
    ):
        for one, own_rows in zip(maps, rows.of_maps(len(maps)), strict=True):
            total = total + _rows_and_bias(one.trained_rows, own_rows)
    return total


def gradient_norm(trace: BlockTrace, subnet: Subnet, shape: ModelShape) -> Tensor:
    """L2 norm of the gradient of a sample's loss with respect to the subnet's parameters."""
    return fisher(trace, subnet, shape).sqrt()


def taylor(trace: BlockTrace, subnet: Subnet, shape: ModelShape) -> Tensor:
    """First-order change of a sample's loss if heads and hidden units are left out, one by one.

    The derivative by a gate of 1 on each head's output and on the subnet's hidden units as a group
    (arXiv 1905.10650): absolute values, summed over the heads and the group.
    """
    assert trace.heads_out.grad_x is not None
    assert trace.hidden_out.grad_x is not None
    own, units = _taken(trace, subnet, shape, lambda linear: linear.x)
    grad_own, grad_units = _taken(trace, subnet, shape, lambda linear: linear.grad_x)
    by_head = (own * grad_own).sum(1).unflatten(-1, (len(subnet.heads), shape.head_columns))
    return by_head.sum(-1).abs().sum(-1) + (units * grad_units).sum((1, 2)).abs()


def activation_norm(trace: BlockTrace, subnet: Subnet, shape: ModelShape) -> Tensor:
    """L2 norm of the subnet's head outputs and hidden units over a sample's tokens."""
    heads, units = _taken(trace, subnet, shape, lambda linear: linear.x)
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
    family, columns = family_of(model), []
    sizes = list(workload.microbatch_samples)
    for part, targets in zip(inputs.split(sizes), labels.split(sizes), strict=True):
        model.zero_grad()
        total = family.loss(model, family.whole_features(model, part), targets)
        (total / family.num_counted(targets).sum().clamp_min(1)).backward()
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
    shape = workload.shape
    per_head, per_unit = list[Tensor](), list[Tensor]()
    for attention, mlp in family_of(model).blocks(model):
        for sublayer, sums, parts in (
            (attention, per_head, unit_rows(shape, *HEAD_PARTS)),
            (mlp, per_unit, (1,) * shape.hidden_rows),
        ):
            rows, columns = _sums_of_units(sublayer, of, trained)
            total = columns.unflatten(0, (-1, parts[0])).sum(1)
            num_units = len(total)
            for part, size in zip(rows.split([num_units * p for p in parts]), parts, strict=True):
                total = total + part.unflatten(0, (num_units, size)).sum(1)
            sums.append(total)
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


def _units(heads: Sequence[int], num_all: int, parts: tuple[int, ...]) -> Units:
    return Units(index_runs(np.sort(np.array(heads, dtype=np.int64))), num_all, parts)


def _hidden(subnet: Subnet, shape: ModelShape) -> Units:
    return _units(range(subnet.hidden_start, subnet.hidden_stop), shape.mlp_hidden, (1,))


def _taken(
    trace: BlockTrace,
    subnet: Subnet,
    shape: ModelShape,
    values: Callable[[LinearTrace], Tensor | None],
) -> tuple[Tensor, Tensor]:
    """A subnet's part of what the maps out see: of its heads and of its hidden units."""
    heads, hidden = values(trace.heads_out), values(trace.hidden_out)
    assert heads is not None
    assert hidden is not None
    own = _units(subnet.heads, shape.num_heads, unit_rows(shape, "queries"))
    return own.take(heads, -1), _hidden(subnet, shape).take(hidden, -1)


def _rows_and_bias(linear: LinearTrace, rows: Units) -> Tensor:
    """Squared norm of each sample's gradient of some rows of the weight and of the bias, ``[B]``.

    A sample's weight gradient is ``grad_out.T @ x`` over tokens; its squared norm is the inner
    product of the two Gram matrices.
    """
    assert linear.grad_out is not None
    grad_out = rows.take(linear.grad_out, -1)
    weight = ((grad_out @ grad_out.mT) * linear.gram_x).sum((1, 2))
    return weight + grad_out.sum(1).square().sum(-1) if linear.has_bias else weight


def _weight_columns(linear: LinearTrace, columns: Units) -> Tensor:
    """The same of some columns of the weight, without the bias."""
    x = columns.take(linear.x, -1)
    return (linear.gram_out * (x @ x.mT)).sum((1, 2))
