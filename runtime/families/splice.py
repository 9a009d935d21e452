"""Where lanes take the place of a sub-layer's own computation in a model that is not ours to run.

The rest of the model, and whatever is around it, stays what its library made it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runtime.families.sublayer import Sublayer

Lanes = Callable[[Sublayer, Tensor, Tensor | None], Tensor]
"""From a sub-layer, its normed input ``[B, N, D]`` and which tokens may be looked at, bool ``[B,
N]`` or None for all, to the sum of its lanes with the output bias, ``[B, N, D]``."""


@dataclass(frozen=True, eq=False)
class Splice:
    """One sub-layer in its module.

    Attributes:
        module: whose method is replaced.
        method: its name, ``forward`` for most.
        sublayer: what it computes.
        around: from lanes, and the arguments of the method, to what the method returns; dropout
            after the output map, say, is here.
    """

    module: nn.Module
    method: str
    sublayer: Sublayer
    around: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class SplicedBlocks:
    """The blocks of one family in a model.

    Attributes:
        name: of the module that has them, in the model; "" for the model itself.
        family_name: what comes before names of the module's parameters in
            `runtime.families.family.ModelFamily.unit_axis`.
        blocks: attention and MLP of every block, in order.
    """

    name: str
    family_name: str
    blocks: tuple[tuple[Splice, Splice], ...]


def only_module(model: nn.Module, kind: type[nn.Module]) -> tuple[str, Any] | None:
    """The name and the module of a type in a model that has exactly one; None otherwise."""
    found = [(name, module) for name, module in model.named_modules() if type(module) is kind]
    return found[0] if len(found) == 1 else None


def visible_tokens(mask: Tensor | None, num_samples: int) -> Tensor | None:
    """Which tokens any other may look at, bool ``[B, N]``, of a mask as transformers hands it on.

    Args:
        mask: None; bool or 0/1 ``[B, N]``; or ``[B or 1, 1, queries, N]``, bool or added to scores,
            the same for all queries.
        num_samples: B.
    """
    if mask is None:
        return None
    if mask.dim() == 4:
        mask = mask[:, 0, -1]
        if mask.dtype.is_floating_point:
            mask = mask > -1.0
    return mask.to(torch.bool).expand(num_samples, -1)
