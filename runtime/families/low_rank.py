"""The low-rank factors of a linear map that `peft` has wrapped."""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LowRank:
    """An adapter adds ``scale (x A^T) B^T`` to what its map makes of x.

    Attributes:
        down: A, ``[r, in]``.
        up: B, ``[out, r]``.
        scale: alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float


_BASE, _FACTOR = ".base_layer.", re.compile(r"(.+)\.lora_([AB])\.[^.]+\.weight")


def adapted_weight(parameter: str) -> tuple[str, int | None]:
    """Which parameter of the model without adapters a name stands for.

    Returns:
        Its name; for a factor that of the weight that it adapts, and which dimension of that the
        factor has besides the rank: A ``[r, in]`` the second, B ``[out, r]`` the first.
    """
    factor = _FACTOR.fullmatch(parameter)
    if factor is None:
        return parameter.replace(_BASE, "."), None
    return f"{factor[1]}.weight", "BA".index(factor[2])


def low_rank_of(linear: nn.Module) -> LowRank | None:
    """The adapter of a map; None if it has none."""
    wrapped: Any = linear
    if not hasattr(wrapped, "lora_A"):
        return None
    (name,) = wrapped.lora_A
    return LowRank(wrapped.lora_A[name].weight, wrapped.lora_B[name].weight, wrapped.scaling[name])
