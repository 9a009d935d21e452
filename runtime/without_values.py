"""Models on torch's meta device: sizes and types of tensors, no values and no memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLING = {
    *(value for name, value in vars(nn.init).items() if name.endswith("_") and name[0] != "_"),
    *(
        getattr(Tensor, name)
        for name in ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_")
    ),
}
"""Initialisers of torch, and what those of other libraries do to tensors."""


class _Unfilled(TorchFunctionMode):
    """Filling of tensors without values is left out: there torch plays it in Python, which takes
    four fifths of the time that the building of a small ViT takes."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FILLING:
            tensor = args[0] if args else given["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **given)


@contextmanager
def without_values() -> Iterator[None]:
    """What is built inside has no values, and nothing is spent on initial ones."""
    with torch.device("meta"), _Unfilled():
        yield
