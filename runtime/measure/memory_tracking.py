"""Peak bytes of live tensors while something runs.

On CUDA the allocator's own statistics; on a CPU every storage that an operator returns is followed
until it is freed. What a kernel allocates and frees within itself is not seen there.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors made while it is active.

    Autograd adds up the gradients of what was used twice in place where nothing else holds one of
    them, but not where a mode watches. Such a sum counts once the gradients that only it needed are
    gone.

    Attributes:
        live: bytes now, those of `held` included.
        peak: the most so far.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()
        for tensor in held:
            self._follow(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.peak = max(self.peak, self.live)
        if func is torch.ops.aten.add.Tensor and _is_by_engine():
            self._add(result)
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        return result

    def __exit__(self, *stopped: Any) -> None:
        super().__exit__(*stopped)
        self.peak = max(self.peak, self.live)

    def _follow(self, tensor: Tensor) -> None:
        self._add(tensor)
        self.peak = max(self.peak, self.live)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._known or size == 0:
            return
        self._known.add(address)
        self.live += size
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _is_by_engine() -> bool:
    """Whether autograd's engine, and no function in Python, called the operator that is traced."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].startswith(("torch._compile", "torch._dynamo")):
        assert frame.f_back is not None
        frame = frame.f_back
    return frame.f_code is _engine_run_backward.__code__


def peak_memory_bytes(
    run: Callable[[], object], held: Iterable[Tensor], device: torch.device
) -> int:
    """The most bytes that tensors take while `run` runs.

    Args:
        run: what to run.
        held: tensors that are there before: parameters, gradients, optimizer state, inputs.
        device: where they are.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    with LiveBytes(held) as tracker:
        run()
    return tracker.peak


def kept_bytes(run: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """Bytes that stay while the result of `run` is held: the activations that a graph keeps.

    Arguments as for `peak_memory_bytes`.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        torch.cuda.synchronize(device)
        after = torch.cuda.memory_allocated(device)
        del result
        return int(after - before)
    with LiveBytes(held) as tracker:
        before = tracker.live
        result = run()
        kept = tracker.live - before
        del result
    return kept
