"""Which part of which parameter every rank holds, in the names and shapes of the model.

A weight of heads or hidden units lives only where its subnets are: rows of the maps to queries,
keys, values and hidden units, columns of the maps from them. The trunk (embeddings, tokens, norms,
LayerScale, output biases, classifier) lives whole on every owner of a micro-batch, and nowhere
else. Factors of adapters that a block shares live whole wherever one of its subnets does.
"""

import math
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from runtime.families.family import ModelFamily, UnitAxis
from runtime.families.known_families import family_of
from runtime.families.low_rank import adapted_weight
from runtime.lanes.held_units import HeldUnits, held_units, unit_rows
from runtime.lanes.units import index_runs
from runtime.tensor_file import DTYPE_NAMES, is_finite


@dataclass(frozen=True, eq=False)
class Shard:
    """The part of one parameter that a rank holds.

    Attributes:
        name: of the parameter, such as timm's ``blocks.3.attn.qkv.weight``.
        full_shape: of the whole parameter.
        dim: along which it is sliced.
        indices: what the rank holds along `dim`, int64, sorted; None for all.
    """

    name: str
    full_shape: tuple[int, ...]
    dim: int
    indices: np.ndarray | None

    @property
    def is_whole(self) -> bool:
        return self.indices is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part held."""
        if self.indices is None:
            return self.full_shape
        return (*self.full_shape[: self.dim], len(self.indices), *self.full_shape[self.dim + 1 :])

    @property
    def num_values(self) -> int:
        """Of the part held."""
        return math.prod(self.shape)

    def take(self, full: Tensor) -> Tensor:
        """The part held of the whole parameter, or of a tensor like it; a copy if it is sliced."""
        if self.indices is None:
            return full
        return full.index_select(self.dim, torch.from_numpy(self.indices).to(full.device))

    def put(self, part: Tensor, full: Tensor) -> None:
        """Write the part held into the whole tensor, in place."""
        if self.indices is None:
            full.copy_(part)
        else:
            full.index_copy_(self.dim, torch.from_numpy(self.indices).to(full.device), part)


def rank_shards(
    model: nn.Module, workload: Workload, replicas: Sequence[Replica], rank: int
) -> tuple[Shard, ...]:
    """What `rank` holds, in the order of the model's parameters; nothing if it is in no replica.

    Args:
        model: whose names and shapes count; it may be on the meta device.
        workload: whose partition says which heads and hidden units a subnet has.
        replicas: whose devices are the ranks.
        rank: 0 to num_devices - 1.
    """
    for replica in replicas:
        if rank in replica.devices:
            return _shards_in(model, workload, replica.placement, rank)
    return ()


def _shards_in(
    model: nn.Module, workload: Workload, placement: Placement, rank: int
) -> tuple[Shard, ...]:
    units = [held_units(workload, placement, rank, b) for b in range(workload.shape.num_blocks)]
    owns = rank in placement.owner
    family = family_of(model)
    shards = []
    for name, parameter in model.named_parameters():
        axis, block = sliced_axis(family, name), sharing_block(family, name)
        full_shape = tuple(parameter.shape)
        if axis is not None:
            indices = axis_indices(axis, units[axis.block], workload)
            if len(indices):
                shards.append(Shard(name, full_shape, axis.dim, indices))
        elif owns if block is None else units[block].are_any:
            shards.append(Shard(name, full_shape, 0, None))
    return tuple(shards)


def whole_shards(model: nn.Module) -> tuple[Shard, ...]:
    """All of every parameter, in their order."""
    return tuple(Shard(name, tuple(p.shape), 0, None) for name, p in model.named_parameters())


def sliced_axis(family: ModelFamily, parameter: str) -> UnitAxis | None:
    """Which axis of a parameter, or of a factor of an adapter, subnets share among them, if any."""
    weight, dim = adapted_weight(parameter)
    axis = family.unit_axis(weight)
    return axis if axis is not None and not _is_shared(axis, dim) else None


def is_trunk(family: ModelFamily, parameter: str) -> bool:
    """Whether a parameter belongs to no subnet and to no adapter."""
    return family.unit_axis(adapted_weight(parameter)[0]) is None


def sharing_block(family: ModelFamily, parameter: str) -> int | None:
    """Whose subnets share a factor of an adapter, or what stands in their core; None for all other
    parameters."""
    weight, dim = adapted_weight(parameter)
    axis = family.unit_axis(weight)
    return axis.block if axis is not None and _is_shared(axis, dim) else None


def _is_shared(axis: UnitAxis, dim: int | None) -> bool:
    """Whether the units of an axis have all of a parameter in common; `dim` as `adapted_weight`
    gives it."""
    return not axis.parts or dim not in (None, axis.dim)


def parameter_blocks(
    family: ModelFamily, names: Collection[str], num_blocks: int
) -> dict[str, int]:
    """Block of each parameter; -1 before the first block, `num_blocks` after the last.

    Args:
        family: of the model.
        names: of its parameters in their order, those of every block among them.
        num_blocks: of the model.
    """
    of_units: dict[int, list[str]] = {}
    for name in names:
        axis = family.unit_axis(adapted_weight(name)[0])
        if axis is not None:
            of_units.setdefault(axis.block, []).append(name)
    prefixes = {_common_module(own) + ".": block for block, own in of_units.items()}
    blocks, before = {}, -1
    for name in names:
        block = next((b for prefix, b in prefixes.items() if name.startswith(prefix)), None)
        before = num_blocks if block is not None else before
        blocks[name] = before if block is None else block
    return blocks


def _common_module(names: Sequence[str]) -> str:
    """The innermost module that has all of several parameters."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def trained_dtype(model: nn.Module) -> torch.dtype:
    """Type of all parameters that train, of messages of parameters and of files; what is frozen may
    be narrower."""
    return next((p.dtype for p in model.parameters() if p.requires_grad), torch.float32)


def read_shards(
    path: Path, shards: tuple[Shard, ...], dtype: torch.dtype, of_model: Set[str] | None = None
) -> dict[str, Tensor]:
    """The parts held, read from a safetensors file in the model's layout; nothing else is read.

    Args:
        path: the file.
        shards: what to read.
        dtype: of all of it.
        of_model: names of all tensors that the file may have; None for any.

    Raises:
        InputError: the file is unreadable, lacks a tensor, has one of another shape or type, or one
            that is not of the model.
    """
    check_named(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if of_model is not None and names - of_model:
                raise InputError(
                    f"weights {path}: has tensor {min(names - of_model)}; the model has not"
                )
            return {shard.name: _read(file, names, shard, path, dtype) for shard in shards}
    except FileNotFoundError:
        raise InputError(f"weights {path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: is not a whole safetensors file ({error})") from None


def axis_indices(axis: UnitAxis, held: HeldUnits, workload: Workload) -> np.ndarray:
    """Where some units of a block lie along an axis, int64, sorted; nothing where they share it."""
    shape, own = workload.shape, held.of(axis.units)
    num_all = shape.num_heads if axis.units == "heads" else shape.mlp_hidden
    pieces, first = [np.array([], dtype=np.int64)], 0
    for rows in unit_rows(shape, *axis.parts):
        pieces.append((first + own[:, None] * rows + np.arange(rows)).ravel())
        first += num_all * rows
    return np.concatenate(pieces)


def _read(file: safe_open, names: set[str], shard: Shard, path: Path, dtype: torch.dtype) -> Tensor:
    if shard.name not in names:
        raise InputError(f"weights {path}: lacks tensor {shard.name} {list(shard.full_shape)}")
    stored = file.get_slice(shard.name)
    if tuple(stored.get_shape()) != shard.full_shape:
        raise InputError(
            f"weights {path}: tensor {shard.name} has shape {stored.get_shape()}; "
            f"the model needs {list(shard.full_shape)}"
        )
    if stored.get_dtype() != DTYPE_NAMES[dtype]:
        raise InputError(
            f"weights {path}: tensor {shard.name} is of type {stored.get_dtype()}; the model needs "
            f"{DTYPE_NAMES[dtype]}"
        )
    if shard.indices is None:
        tensor: Tensor = file.get_tensor(shard.name)
    else:
        before = (slice(None),) * shard.dim
        runs = index_runs(shard.indices)
        tensor = torch.cat([stored[(*before, slice(a, b))] for a, b in runs], shard.dim)
    if not is_finite(tensor):
        raise InputError(f"weights {path}: tensor {shard.name} has values that are no numbers")
    return tensor
