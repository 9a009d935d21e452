"""Optimizers from timm under the names of `d2ft_sched.model.workload.OPTIMIZER_STATES`."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import OPTIMIZER_STATES

_TIMM_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"opt": "momentum", "momentum": 0.0},
    "sgdm": {"opt": "momentum", "momentum": 0.9},
    "adamw": {"opt": "adamw"},
}

VALUES: dict[str, frozenset[str]] = {
    "sgd": frozenset(),
    "sgdm": frozenset({"momentum_buffer"}),
    "adamw": frozenset({"step", "exp_avg", "exp_avg_sq"}),
}
"""What each keeps of a parameter that it has updated; ``step`` is a scalar."""


def create_optimizer(
    model: nn.Module, name: str = "adamw", *, lr: float, weight_decay: float = 0.05
) -> torch.optim.Optimizer:
    """A fused optimizer of what trains; biases, norms and a ViT's positions do not decay.

    Args:
        model: its parameters must all be on one device; without any, as on a rank without work,
            the optimizer does nothing.
        name: ``adamw``, ``sgd`` (no momentum) or ``sgdm`` (momentum 0.9).
        lr: learning rate.
        weight_decay: decoupled for ``adamw``.

    Raises:
        InputError: another name.
    """
    if name not in _TIMM_OPTIONS:
        raise InputError(f"optimizer is {name!r}; it must be one of {', '.join(OPTIMIZER_STATES)}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return torch.optim.SGD([nn.Parameter(torch.empty(0))], lr=lr)
    options = _TIMM_OPTIONS[name]
    return create_optimizer_v2(model, lr=lr, weight_decay=weight_decay, fused=True, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For all parameters, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
