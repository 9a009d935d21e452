"""Parts of a batch, whatever container a loop has it in."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from d2ft_sched.errors import InputError
from runtime.lanes.units import Run


def batch_size(batch: Any) -> int:
    """Samples of a batch: the first size of the tensors in it.

    Raises:
        InputError: there is no tensor, or they differ.
    """
    sizes = _sizes(batch)
    if len(sizes) != 1:
        found = "none" if not sizes else ", ".join(map(str, sorted(sizes)))
        raise InputError(f"a batch needs tensors of one number of samples; found {found}")
    return sizes.pop()


def take_runs(batch: Any, runs: tuple[Run, ...]) -> Any:
    """Samples of a batch in a container of the same kind; views where they are neighbours.

    Args:
        batch: tensors ``[num_samples, ...]``, alone or in mappings, lists and tuples; whatever else
            is in it stays as it is, and so do scalars.
        runs: of samples.
    """
    if isinstance(batch, Tensor):
        if not batch.dim():
            return batch
        parts = [batch[start:stop] for start, stop in runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    if isinstance(batch, Mapping):
        taken = {key: take_runs(value, runs) for key, value in batch.items()}
        return taken if type(batch) is dict else type(batch)(taken)  # type: ignore[call-arg]
    if isinstance(batch, list | tuple):
        made = [take_runs(value, runs) for value in batch]
        return type(batch)(*made) if hasattr(batch, "_fields") else type(batch)(made)
    return batch


def _sizes(batch: Any) -> set[int]:
    if isinstance(batch, Tensor):
        return {len(batch)} if batch.dim() else set()
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return set().union(*map(_sizes, batch))
    return set()
