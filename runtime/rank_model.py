"""The part of a model that one rank holds, and its way from and to the whole model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.placement import Placement
from d2ft_sched.workload import Workload
from runtime.families.family import ModelFamily
from runtime.families.registry import family_of
from runtime.families.sublayer import Sublayer
from runtime.ranks import Ranks
from runtime.shards import Shard, join_shards, rank_shards, read_shards


@dataclass(frozen=True, eq=False)
class RankModel:
    """What one rank holds of a model.

    Attributes:
        module: the model in which every parameter that is not held is None, and every parameter
            of heads or hidden units has the shape of what is held; names stay.
        workload: the model's subnets and the micro-batches.
        placement: whose devices are the ranks.
        ranks: the job.
        shards: of every rank.
        dtype: of all parameters.
        owners_group: of the ranks that hold the trunk; None if these are all ranks, or one.
    """

    module: nn.Module
    workload: Workload
    placement: Placement
    ranks: Ranks
    shards: tuple[tuple[Shard, ...], ...]
    dtype: torch.dtype
    owners_group: dist.ProcessGroup | None

    @property
    def own_shards(self) -> tuple[Shard, ...]:
        """Of this rank, in the order of the parameters of `module`."""
        return self.shards[self.ranks.rank]

    @cached_property
    def trunk(self) -> list[nn.Parameter]:
        """Parameters that are held whole, in an order that is the same on all owners."""
        parameters = dict(self.module.named_parameters())
        return [parameters[shard.name] for shard in self.own_shards if shard.is_trunk]

    @cached_property
    def blocks(self) -> list[tuple[Sublayer, Sublayer]]:
        """Attention and MLP of every block."""
        return self.family.blocks(self.module)

    @property
    def num_classes(self) -> int:
        """That the classifier tells apart, on owners and others alike."""
        return self.family.classifier(self.module).out_features

    @cached_property
    def family(self) -> ModelFamily:
        """Of `module`."""
        return family_of(self.module)


def read_rank_model(
    model: nn.Module,
    path: Path,
    workload: Workload,
    placement: Placement,
    ranks: Ranks,
) -> RankModel:
    """Turn `model` into this rank's part and read that part alone from a safetensors file.

    Args:
        model: on the meta device; it is changed.
        path: a file in the model's layout whose tensors have the model's shapes.
        workload: the model's subnets and the micro-batches.
        placement: whose devices are the ranks.
        ranks: all of which must call this.

    Raises:
        InputError: the file is unreadable or of another model.
    """
    shards = _all_shards(model, workload, placement)
    parts = read_shards(path, shards[ranks.rank])
    return _hold(model, parts, shards, workload, placement, ranks)


def scatter_rank_model(
    model: nn.Module, workload: Workload, placement: Placement, ranks: Ranks
) -> RankModel:
    """Turn `model` into this rank's part, with the values that rank 0 has.

    Args:
        model: whole on rank 0, on the meta device on all others; it is changed.
        workload: the model's subnets and the micro-batches.
        placement: whose devices are the ranks.
        ranks: all of which must call this.
    """
    shards = _all_shards(model, workload, placement)
    dtype = next(model.parameters()).dtype
    what = "the distribution of the weights"
    if ranks.rank == 0:
        state = {name: p.detach() for name, p in model.named_parameters()}
        for target in range(1, ranks.num_ranks):
            message = _flatten([s.take(state[s.name]) for s in shards[target]], dtype, ranks)
            if len(message):
                with ranks.watched(what):
                    dist.send(message, target)
        parts = {s.name: s.take(state[s.name]).clone() for s in shards[0]}
    else:
        parts = _receive(shards[ranks.rank], 0, dtype, ranks, what)
    return _hold(model, parts, shards, workload, placement, ranks)


def gather_full_state(
    model: RankModel, parts: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The whole model on rank 0, by the parameters' names; nothing on the other ranks.

    Args:
        model: all ranks must call this.
        parts: other values than the parameters, shaped like them and of their type, such as
            gradients or an optimizer's state; by the names of the parameters held.

    Returns:
        On rank 0 tensors on its device; trunk values are those of the first owner.
    """
    ranks, what = model.ranks, "the collection of the whole model"
    if parts is None:
        parts = {name: p.detach() for name, p in model.module.named_parameters()}
    first_owner = model.placement.owners[0]
    sources = [
        tuple(s for s in shards if not s.is_trunk or rank == first_owner)
        for rank, shards in enumerate(model.shards)
    ]
    if ranks.rank > 0:
        own = [parts[shard.name] for shard in sources[ranks.rank]]
        message = _flatten(own, model.dtype, ranks)
        if len(message):
            with ranks.watched(what):
                dist.send(message, 0)
        return {}
    full = {
        shard.name: torch.empty(shard.full_shape, dtype=model.dtype, device=ranks.device)
        for shards in sources
        for shard in shards
    }
    join_shards(parts, sources[0], full)
    for source in range(1, ranks.num_ranks):
        received = _receive(sources[source], source, model.dtype, ranks, what)
        join_shards(received, sources[source], full)
    return full


def _all_shards(
    model: nn.Module, workload: Workload, placement: Placement
) -> tuple[tuple[Shard, ...], ...]:
    ranks = range(placement.num_devices)
    return tuple(rank_shards(model, workload, placement, rank) for rank in ranks)


def _hold(
    model: nn.Module,
    parts: Mapping[str, Tensor],
    shards: tuple[tuple[Shard, ...], ...],
    workload: Workload,
    placement: Placement,
    ranks: Ranks,
) -> RankModel:
    dtype = next(model.parameters()).dtype
    for name, _ in list(model.named_parameters()):
        owner_name, _, leaf = name.rpartition(".")
        part = parts.get(name)
        held = None if part is None else nn.Parameter(part.to(ranks.device, dtype))
        setattr(model.get_submodule(owner_name), leaf, held)
    group: Any = None
    owners = placement.owners
    if 1 < len(owners) < ranks.num_ranks:
        group = dist.new_group(list(owners))
        group = group if ranks.rank in owners else None
    return RankModel(model, workload, placement, ranks, shards, dtype, group)


def _flatten(parts: list[Tensor], dtype: torch.dtype, ranks: Ranks) -> Tensor:
    """One message of many tensors."""
    if not parts:
        return torch.empty(0, dtype=dtype, device=ranks.device)
    return torch.cat([part.to(ranks.device, dtype).flatten() for part in parts])


def _receive(
    shards: tuple[Shard, ...], source: int, dtype: torch.dtype, ranks: Ranks, what: str
) -> dict[str, Tensor]:
    sizes = [torch.Size(shard.shape).numel() for shard in shards]
    message = torch.empty(sum(sizes), dtype=dtype, device=ranks.device)
    if len(message):
        with ranks.watched(what):
            dist.recv(message, source)
    pieces = message.split(sizes)
    return {s.name: p.view(s.shape) for s, p in zip(shards, pieces, strict=True)}
