"""What is kept for each parameter, saved in shards that any placement can read.

An optimizer keeps, for each parameter, values of the parameter's shape (such as ``exp_avg``) and
scalars (such as ``step``); some keep counters of all parameters together. A file holds the shards
of one rank: ``VALUE/PARAMETER`` for each of them, ``indices/PARAMETER`` where the parameter is
sliced, and as metadata the parameters' whole shapes and the counters. Files of any number of ranks
add up to the whole state.
"""

import json
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from runtime.ranks.shards import Shard
from runtime.tensor_file import TensorSpec, is_finite, write_tensors

State = dict[str, dict[str, Tensor]]
"""From parameter to value to tensor."""

_INDICES, _STEP = "indices", "step"


class _Facts(BaseModel):
    """Of a parameter: its whole shape, and along which dimension it is sliced."""

    model_config = ConfigDict(extra="forbid")
    shape: tuple[NonNegativeInt, ...]
    dim: NonNegativeInt

    def has(self, indices: np.ndarray) -> bool:
        """Whether they are of that dimension, sorted, each once."""
        return (
            indices.ndim == 1
            and self.dim < len(self.shape)
            and bool((np.diff(indices) > 0).all())
            and bool((indices >= 0).all() and (indices < self.shape[self.dim]).all())
        )


_LAYOUT = TypeAdapter(dict[str, _Facts])
_COUNTERS: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, NonNegativeInt | NonNegativeFloat])
_Content = TypeVar("_Content")


def state_by_name(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> State:
    """What `optimizer` keeps for each of `parameters`; nothing is copied."""
    return {
        name: {
            value: tensor
            for value, tensor in optimizer.state.get(parameter, {}).items()
            if isinstance(tensor, Tensor)
        }
        for name, parameter in parameters.items()
    }


def set_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: State
) -> None:
    """Inverse of `state_by_name`; tensors move to the parameters' devices."""
    if not parameters:
        return
    names = {id(parameter): name for name, parameter in parameters.items()}
    in_order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    content = optimizer.state_dict()
    content["state"] = {i: state[name] for i, name in enumerate(in_order) if state[name]}
    optimizer.load_state_dict(content)


def counters_of(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, float]:
    """Counters of all parameters together, whole numbers or, where they are tensors, floats; none
    before the first step."""
    groups = optimizer.param_groups
    held = {name: groups[0][name] for name in names if name in groups[0]}
    return {n: float(v) if isinstance(v, Tensor) else v for n, v in held.items()}


def set_counters(optimizer: torch.optim.Optimizer, counters: Mapping[str, float]) -> None:
    """Inverse of `counters_of`."""
    for group in optimizer.param_groups:
        for name, value in counters.items():
            group[name] = torch.tensor(value) if isinstance(value, float) else value


def save_shards(
    path: Path,
    shards: Sequence[Shard],
    state: State,
    counters: Mapping[str, float] | None = None,
) -> None:
    """Write a rank's part of the state.

    Args:
        path: the file.
        shards: of which parameters, and what of each.
        state: tensors of the shards' shapes, and scalars, for each of them.
        counters: from `counters_of`.
    """
    specs, tensors = [], []
    for shard in shards:
        held = dict(state[shard.name])
        if shard.indices is not None and held:
            held[_INDICES] = torch.from_numpy(shard.indices)
        for value, tensor in held.items():
            specs.append(TensorSpec(f"{value}/{shard.name}", tuple(tensor.shape), tensor.dtype))
            tensors.append(tensor)
    layout = {s.name: {"shape": list(s.full_shape), "dim": s.dim} for s in shards}
    metadata = {"parameters": json.dumps(layout), "counters": json.dumps(dict(counters or {}))}
    write_tensors(path, specs, tensors, metadata)


def load_shards(
    paths: Sequence[Path],
    wanted: Sequence[Shard],
    values: Set[str],
    dtype: torch.dtype,
) -> State:
    """What a rank needs of a state that was saved by other ranks; the rest stays on disk.

    A slice that was never updated has no state; it is zeros where other slices of its parameter
    have one.

    Args:
        paths: the files of all ranks that saved.
        wanted: what this rank holds.
        values: that are kept of a parameter that was updated.
        dtype: of all of them but ``step``.

    Raises:
        InputError: a file is unreadable, a parameter has another shape or other values than these,
            one of them another shape or type or values that are no numbers, or a part is missing.
    """
    with ExitStack() as stack:
        files = [_ShardFile(path, stack, values, dtype) for path in paths]
        return {shard.name: _load(files, shard, values) for shard in wanted}


def load_counters(paths: Sequence[Path], names: Sequence[str]) -> dict[str, float]:
    """Counters as a rank saved them; none if no rank had any.

    Raises:
        InputError: a file is unreadable, or has other counters.
    """
    with ExitStack() as stack:
        for path in paths:
            counters = _metadata(_open(path, stack), path, "counters", _COUNTERS)
            if counters and set(counters) != set(names):
                raise InputError(f"{path}: is damaged: it has other counters than the optimizer")
            if counters:
                return counters
    return {}


def reslice(pieces: Sequence[tuple[Shard, Tensor]], wanted: Shard) -> Tensor:
    """One tensor under another slicing.

    Args:
        pieces: parts of it and what they are of the whole; one at least.
        wanted: the part to make.

    Raises:
        InputError: the pieces lack a part of it.
    """
    sliced = [shard for shard in (wanted, *(s for s, _ in pieces)) if shard.indices is not None]
    if not sliced:
        return pieces[0][1]
    dim = sliced[0].dim
    num_all = wanted.full_shape[dim]
    target = _indices(wanted, num_all)
    result = pieces[0][1].new_empty(wanted.shape)
    missing = np.ones(len(target), dtype=bool)
    for shard, tensor in pieces:
        _, of_piece, of_target = np.intersect1d(
            _indices(shard, num_all), target, assume_unique=True, return_indices=True
        )
        part = tensor.index_select(dim, torch.from_numpy(of_piece))
        result.index_copy_(dim, torch.from_numpy(of_target), part)
        missing[of_target] = False
    if missing.any():
        raise _missing(wanted, f"index {target[missing][0]} of {num_all} along dimension {dim}")
    return result


def _missing(wanted: Shard, what: str) -> InputError:
    return InputError(f"optimizer state of {wanted.name} lacks {what}")


def _indices(shard: Shard, num_all: int) -> np.ndarray:
    return np.arange(num_all) if shard.indices is None else shard.indices


def _open(path: Path, stack: ExitStack) -> Any:
    check_named(path)
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is not a whole safetensors file ({error})") from None


def _metadata(file: Any, path: Path, name: str, adapter: TypeAdapter[_Content]) -> _Content:
    try:
        return adapter.validate_json(file.metadata()[name])
    except (TypeError, KeyError, ValidationError):
        raise InputError(f"{path}: is damaged: it does not say which {name}") from None


class _ShardFile:
    """One rank's file, read where it is asked for."""

    def __init__(self, path: Path, stack: ExitStack, values: Set[str], dtype: torch.dtype) -> None:
        self._file = _open(path, stack)
        self._layout = _metadata(self._file, path, "parameters", _LAYOUT)
        self.path, self._dtype = path, dtype
        self._values: dict[str, set[str]] = {name: set() for name in self._layout}
        for key in self._file.keys():  # noqa: SIM118  a safe_open is no mapping
            value, _, parameter = key.partition("/")
            if parameter not in self._layout or value not in {_INDICES, *values}:
                raise InputError(f"{path}: is damaged: it has {key}, which the optimizer has not")
            self._values[parameter].add(value)
        for parameter, held in self._values.items():
            if held and held - {_INDICES} != values:
                lacking = ", ".join(sorted(values - held)) or "all else"
                raise InputError(f"{path}: is damaged: {parameter} lacks {lacking}")

    def shard(self, parameter: str) -> Shard | None:
        """What the file holds of a parameter."""
        if parameter not in self._layout:
            return None
        facts, indices = self._layout[parameter], None
        if _INDICES in self._values[parameter]:
            indices = self._tensor(_INDICES, parameter, None, torch.int64).numpy()
            if not facts.has(indices):
                raise InputError(f"{self.path}: is damaged: {_INDICES} of {parameter}")
        return Shard(parameter, facts.shape, facts.dim, indices)

    def values(self, shard: Shard) -> dict[str, Tensor]:
        """The tensors held of a shard of this file."""
        held = self._values[shard.name] - {_INDICES}
        return {
            value: self._tensor(value, shard.name, (), torch.float32)
            if value == _STEP
            else self._tensor(value, shard.name, shard.shape, self._dtype)
            for value in sorted(held)
        }

    def _tensor(
        self, value: str, parameter: str, shape: tuple[int, ...] | None, dtype: torch.dtype
    ) -> Tensor:
        tensor: Tensor = self._file.get_tensor(f"{value}/{parameter}")
        if tensor.dtype != dtype or tuple(tensor.shape) != (
            tuple(tensor.shape) if shape is None else shape
        ):
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            needed = str(dtype).removeprefix("torch.")
            raise InputError(
                f"{self.path}: {value} of {parameter} is {found}; the optimizer needs {needed}"
                + ("" if shape is None else f" {list(shape)}")
            )
        if not is_finite(tensor):
            raise InputError(f"{self.path}: {value} of {parameter} has values that are no numbers")
        return tensor


def _load(files: Sequence[_ShardFile], wanted: Shard, values: Set[str]) -> dict[str, Tensor]:
    pieces = []
    for file in files:
        shard = file.shard(wanted.name)
        if shard is None:
            continue
        if shard.full_shape != wanted.full_shape:
            raise InputError(
                f"{file.path}: {wanted.name} has shape {list(shard.full_shape)}; the model needs "
                f"{list(wanted.full_shape)}"
            )
        if _overlap(shard, wanted):
            pieces.append((shard, file.values(shard)))
    if not pieces:
        raise _missing(wanted, "all that is asked for")
    updated = [held for _, held in pieces if held]
    if not updated:
        return {}
    state = {}
    for value in values:
        like = updated[0][value]
        if value == _STEP:
            state[value] = like
            continue
        parts = [(s, held.get(value, like.new_zeros(s.shape))) for s, held in pieces]
        state[value] = reslice(parts, wanted)
    return state


def _overlap(shard: Shard, wanted: Shard) -> bool:
    if shard.indices is None or wanted.indices is None:
        return True
    return bool(np.isin(wanted.indices, shard.indices, assume_unique=True).any())
