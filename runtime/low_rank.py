"""The low-rank factors of a linear map that `peft` has wrapped."""

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


def low_rank_of(linear: nn.Module) -> LowRank | None:
    """The adapter of a map; None if it has none."""
    wrapped: Any = linear
    if not hasattr(wrapped, "lora_A"):
        return None
    (name,) = wrapped.lora_A
    return LowRank(wrapped.lora_A[name].weight, wrapped.lora_B[name].weight, wrapped.scaling[name])
