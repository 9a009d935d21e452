"""FLOPs that a step really executes, counted operator by operator.

`FlopCounterMode` knows no formula for the fused attention of CPUs and counts it as 0; those that it
has for other devices refuse queries that share keys and values, and count causal attention whole
(seen with torch 2.14.1). One is given here for all of them, by torch's own rule, of the pairs of
tokens that are looked at. Nor has it one for products that are added in place. It also follows
which module runs what, which takes most of its time and is not asked here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    mm_flop,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

_KERNELS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


def _formula(operator: Any, *, backward: bool) -> Callable[..., int]:
    names = [argument.name for argument in operator.default._schema.arguments]

    def flops(*args: Any, out_val: Any = None, **named: Any) -> int:
        given = dict(zip(names, args, strict=False)) | named
        query = given["query"]
        key, value = ((*query[:2], *given[part][2:]) for part in ("key", "value"))
        whole = sdpa_flop_count(query, key, value)
        if backward:
            whole = sdpa_backward_flop_count((*query[:3], value[3]), query, key, value)
        if not given.get("is_causal", False):
            return whole
        num_tokens = query[2]
        return whole * (num_tokens + 1) // (2 * num_tokens)

    return flops


_FORMULAS: dict[Any, Callable[..., int]] = {
    operator: _formula(operator, backward=backward)
    for name in _KERNELS
    for backward in (False, True)
    for operator in [getattr(torch.ops.aten, name + ("_backward" if backward else ""))]
} | {torch.ops.aten.addmm_: lambda _, a, b, **named: mm_flop(a, b)}

_FORMULA_OF = FlopCounterMode(display=False, custom_mapping=_FORMULAS).flop_registry


class FlopCounter(TorchDispatchMode):
    """A context that adds up the FLOPs of the operators in it.

    Not of inference mode, where a linear map comes as one operator.

    Attributes:
        flops: of all so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        formula: Any = _FORMULA_OF.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **named, out_val=result))
        return result


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of all operators that `run` executes, backward included (a multiply-add counts 2)."""
    with FlopCounter() as counter:
        run()
    return counter.flops
