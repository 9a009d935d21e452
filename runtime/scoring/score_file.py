"""A file of the scores of all mini-batches of a training, for those who go on with it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_atomically
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.problem.scores import Scores
from runtime.tensor_file import TensorSpec, write_tensors

_TABLES = ("forward", "backward")


def save_minibatch_scores(path: Path, scores: Sequence[Scores], kinds: tuple[str, str]) -> None:
    """Write the scores of all mini-batches.

    Args:
        path: of a safetensors file.
        scores: of each mini-batch.
        kinds: names of the forward and the backward score.
    """
    tables = [
        torch.from_numpy(np.stack([getattr(one, name) for one in scores])) for name in _TABLES
    ]
    specs = [
        TensorSpec(name, tuple(table.shape), table.dtype)
        for name, table in zip(_TABLES, tables, strict=True)
    ]
    metadata = dict(zip(_TABLES, kinds, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: write_tensors(temporary, specs, tables, metadata))


def load_minibatch_scores(
    path: Path, shape: tuple[int, int, int], kinds: tuple[str, str]
) -> list[Scores]:
    """Read what `save_minibatch_scores` wrote.

    Args:
        path: the file.
        shape: mini-batches, subnets and micro-batches that it must have.
        kinds: names that it must have.

    Raises:
        InputError: there is no such file, it is damaged, or of another training.
    """
    check_named(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            forward, backward = (file.get_tensor(name) for name in _TABLES)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as scores of mini-batches ({error})") from None
    if forward.shape != shape or backward.shape != shape:
        raise InputError(
            f"{path}: has scores of shape {list(forward.shape)}; this training has {list(shape)} "
            f"[mini-batches, subnets, micro-batches]"
        )
    if forward.dtype != np.float64 or backward.dtype != np.float64:
        raise InputError(
            f"{path}: has scores of type {forward.dtype} and {backward.dtype}; they must be float64"
        )
    if not (np.isfinite(forward).all() and np.isfinite(backward).all()):
        raise InputError(f"{path}: has scores that are not finite")
    if tuple(metadata.get(name) for name in _TABLES) != kinds:
        raise InputError(f"{path}: has other scores than {kinds[0]} and {kinds[1]}")
    return [Scores(f, b) for f, b in zip(forward, backward, strict=True)]
