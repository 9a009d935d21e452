"""FLOPs that a step really executes, counted operator by operator.

`FlopCounterMode` knows no formula for the fused attention of CPUs and counts it as 0 (seen with
torch 2.14.1); it is given here, by the rule that torch uses for the fused kernels of CUDA.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad_out: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


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
