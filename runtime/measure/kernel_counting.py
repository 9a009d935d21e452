"""How many kernels a step starts: operations of torch, without those that only view or allocate."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_NO_KERNEL = {
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
}
"""Views that torch does not declare as such, and allocations."""


class _KernelCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        schema = func._schema
        is_view = any(
            value.alias_info is not None and not value.alias_info.is_write
            for value in schema.returns
        )
        if not is_view and schema.name not in _NO_KERNEL:
            self.counts[schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def count_kernels(run: Callable[[], object]) -> Counter[str]:
    """Kernels that `run` starts, backward included, by the name of the operation."""
    with _KernelCounter() as counter:
        run()
    return counter.counts
