"""Optimizers from timm under the names of `d2ft_sched.model.optimizer_states.OPTIMIZER_STATES`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES

LR_SCALE = "lr_scale"
"""Key of a group: factor of the learning rate, timm's name."""


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer whose moments begin at zero.

    Attributes:
        timm_name: in timm's factory.
        values: what it keeps of a parameter that it has updated; ``step`` is a scalar.
        counters: what it keeps of all parameters together, in each group.
        options: of timm's factory.
    """

    timm_name: str
    values: frozenset[str]
    counters: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


_MOMENTUM = frozenset({"momentum_buffer"})
_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
_LAMB = frozenset({"exp_avg", "exp_avg_sq"})

KINDS = {
    "sgd": OptimizerKind("momentum", frozenset(), options={"momentum": 0.0}),
    "sgdm": OptimizerKind("momentum", _MOMENTUM),
    "nesterov": OptimizerKind("nesterov", _MOMENTUM),
    "adam": OptimizerKind("adam", _ADAM),
    "adamw": OptimizerKind("adamw", _ADAM),
    "adamax": OptimizerKind("adamax", frozenset({"step", "exp_avg", "exp_inf"})),
    "nadamw": OptimizerKind("nadamw", _ADAM),
    "radamw": OptimizerKind("radamw", _ADAM),
    "lion": OptimizerKind("lion", frozenset({"exp_avg"})),
    "lamb": OptimizerKind("lamb", _LAMB, counters=("step",)),
    "lars": OptimizerKind("lars", _MOMENTUM),
}


def optimizer_kind(name: str) -> OptimizerKind:
    """The kind of that name.

    Raises:
        InputError: there is none.
    """
    if name not in KINDS:
        raise InputError(f"optimizer is {name!r}; it must be one of {', '.join(OPTIMIZER_STATES)}")
    return KINDS[name]


def layers_from_end(
    model: nn.Module, names: Sequence[str], block_of: Mapping[str, int]
) -> dict[str, int]:
    """How many layers are behind each parameter's, as timm groups them for layer-wise decay.

    Models of timm say it themselves; of others a block is a layer, with one before the first and
    one after the last.

    Args:
        model: whole, or a rank's part of it.
        names: of all parameters of the whole model.
        block_of: those that train, as `runtime.ranks.shards.parameter_blocks` has them.
    """
    matcher: Callable[..., Any] | None = getattr(model, "group_matcher", None)
    if matcher is not None:
        named = ((name, None) for name in names)
        layers = group_with_matcher(named, matcher(coarse=False), reverse=True)
    else:
        layers = dict(block_of)
    last = max(layers.values(), default=0)
    return {name: last - layer for name, layer in layers.items()}


def create_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    lr: float,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    layers: Mapping[str, int] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer of what trains, fused where torch has it; timm's rules of decay.

    Biases, norms and a ViT's positions do not decay.

    Args:
        model: its parameters must all be on one device; without any that trains, as on a rank
            without work, the optimizer does nothing.
        name: a key of `KINDS`.
        lr: learning rate.
        weight_decay: decoupled for ``adamw``, ``nadamw``, ``radamw`` and ``lion``.
        layer_decay: factor of the learning rate from each layer to the one before it.
        layers: from `layers_from_end`; needed where `layer_decay` is not 1.

    Raises:
        InputError: another name.
    """
    kind, trained = optimizer_kind(name), dict(_trained(model))
    if not trained:
        return torch.optim.SGD([nn.Parameter(torch.empty(0))], lr=lr)
    named_by_model: Callable[[], set[str]] = getattr(model, "no_weight_decay", set)
    spared = named_by_model()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter_name, parameter in trained.items():
        scale = layer_decay ** (layers or {}).get(parameter_name, 0)
        decays = parameter.ndim > 1 and parameter_name not in spared
        is_bias = parameter_name.endswith(".bias")
        groups.setdefault((scale, decays and not is_bias), []).append(parameter)
    options = dict(kind.options)
    if "fused" in inspect.signature(get_optimizer_class(kind.timm_name)).parameters:
        options["fused"] = True
    return create_optimizer_v2(
        [
            {"params": of_one, "weight_decay": weight_decay * decays, LR_SCALE: scale}
            for (scale, decays), of_one in groups.items()
        ],
        kind.timm_name,
        lr=lr,
        weight_decay=weight_decay,
        **options,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For all parameters, from the next step on; of each group by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SCALE, 1.0)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
