"""FLOPs that a step really executes, counted operator by operator.

`FlopCounterMode` knows no formula for the fused attention of CPUs and counts it as 0; those that it
has for other devices refuse queries that share keys and values, and count causal attention whole
(seen with torch 2.14.1). One is given here for all of them, by torch's own rule, of the pairs of
tokens that are looked at. Nor has it one for products that are added in place.
"""

from collections.abc import Callable
from typing import Any

import torch
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


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of all operators that `run` executes, backward included (a multiply-add counts 2)."""
    with flop_counter() as counter:
        run()
    return int(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """A context whose ``get_total_flops`` tells what has been executed in it so far."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)
