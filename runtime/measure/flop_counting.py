"""FLOPs that a step really executes, counted operator by operator.

`FlopCounterMode` knows no formula for the fused attention of CPUs and counts it as 0 (seen with
torch 2.14.1); it is given here, by the rule that torch uses for the
fused kernels of CUDA; causal attention counts the tokens that each looks at.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def _attention_flops(
    query: Shape,
    key: Shape,
    value: Shape,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *_: Any,
    **__: Any,
) -> int:
    keys, values = (_of_queries(query, part) for part in (key, value))
    return _seen(sdpa_flop_count(query, keys, values), query, is_causal)


def _attention_backward_flops(
    grad_out: Shape,
    query: Shape,
    key: Shape,
    value: Shape,
    out: Shape,
    log_sum: Shape,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *_: Any,
    **__: Any,
) -> int:
    keys, values = (_of_queries(query, part) for part in (key, value))
    return _seen(sdpa_backward_flop_count(grad_out, query, keys, values), query, is_causal)


def _of_queries(query: Shape, part: Shape) -> Shape:
    """Keys or values, as many as the queries that share them."""
    return (*query[:2], *part[2:])


def _seen(flops: int, query: Shape, is_causal: bool) -> int:
    """Of all pairs of tokens those that a causal kernel multiplies."""
    num_tokens = query[2]
    return flops * (num_tokens + 1) // (2 * num_tokens) if is_causal else flops


_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def count_flops(run: Callable[[], object]) -> int:
    """FLOPs of all operators that `run` executes, backward included (a multiply-add counts 2)."""
    with flop_counter() as counter:
        run()
    return int(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """A context whose ``get_total_flops`` tells what has been executed in it so far."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)
