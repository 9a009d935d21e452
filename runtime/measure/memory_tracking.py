"""Peak bytes of live tensors while something runs.

On CUDA the allocator's own statistics; on a CPU every storage that an operator returns is followed
until it is freed. What a kernel allocates and frees within itself is not seen there.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Follows the storages of all tensors made while it is active.

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
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._known or size == 0:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


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
