"""The ranks of a job: this process alone, or those that torchrun started together.

Every function is called on all ranks in the same order; without a process group it answers for the
one process that there is.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def any_rank(condition: bool) -> bool:
    """Whether it holds on any rank."""
    if not dist.is_initialized():
        return condition
    number = torch.tensor([int(condition)])
    dist.all_reduce(number)
    return bool(number)


def gather_texts(text: str) -> list[str]:
    """The text of every rank, on every rank, without pickle."""
    if not dist.is_initialized():
        return [text]
    own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(num_ranks())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    width = max(int(size) for size in sizes)
    rows = [torch.zeros(width, dtype=torch.uint8) for _ in sizes]
    padded = torch.zeros(width, dtype=torch.uint8)
    padded[: len(own)] = own
    dist.all_gather(rows, padded)
    return [_text(row, int(size)) for row, size in zip(rows, sizes, strict=True)]


def _text(row: Tensor, size: int) -> str:
    return row[:size].numpy().tobytes().decode()
