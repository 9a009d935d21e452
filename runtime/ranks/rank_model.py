"""The part of a model that one rank holds, and its way from and to the whole model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from runtime.families.family import ModelFamily
from runtime.families.known_families import family_of
from runtime.families.sublayer import Sublayer
from runtime.ranks.job import Ranks
from runtime.ranks.shards import (
    Shard,
    is_trunk,
    join_shards,
    rank_shards,
    read_shards,
    sharing_block,
)


@dataclass(frozen=True, eq=False)
class Replicas:
    """Parameters that train and that several ranks hold whole, so that their gradients are summed.

    Attributes:
        what: their gradients' name.
        members: ranks whose gradients are summed, sorted.
        group: of the members; None if these are all ranks, or one, or if this rank is none.
        shapes: by name, in an order that is the same on all ranks; a member may lack some.
    """

    what: str
    members: tuple[int, ...]
    group: dist.ProcessGroup | None
    shapes: Mapping[str, torch.Size]

    @property
    def num_values(self) -> int:
        return sum(shape.numel() for shape in self.shapes.values())


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
        trained: names of the parameters that train, held here or not.
        trunk: what its owners hold of it and train.
        shared_factors: of adapters, what ranks with subnets hold of them.
    """

    module: nn.Module
    workload: Workload
    placement: Placement
    ranks: Ranks
    shards: tuple[tuple[Shard, ...], ...]
    dtype: torch.dtype
    trained: frozenset[str]
    trunk: Replicas
    shared_factors: Replicas

    @property
    def own_shards(self) -> tuple[Shard, ...]:
        """Of this rank, in the order of the parameters of `module`."""
        return self.shards[self.ranks.rank]

    def written_shards(self, rank: int) -> tuple[Shard, ...]:
        """What `rank` says of the whole model: of what several hold whole, the first of them."""
        said_before = {s.name for shards in self.shards[:rank] for s in shards if s.is_whole}
        return tuple(s for s in self.shards[rank] if s.name not in said_before)

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
    parts = read_shards(path, shards[ranks.rank], next(model.parameters()).dtype)
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
        On rank 0 tensors on its device; values that several hold are those of the first of them.
    """
    ranks, what = model.ranks, "the collection of the whole model"
    if parts is None:
        parts = {name: p.detach() for name, p in model.module.named_parameters()}
    sources = [model.written_shards(rank) for rank in range(ranks.num_ranks)]
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
    dtype, family = next(model.parameters()).dtype, family_of(model)
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    shared = {n: shape for n, shape in trained.items() if sharing_block(family, n) is not None}
    trunk = {n: shape for n, shape in trained.items() if is_trunk(family, n)}
    for name, parameter in list(model.named_parameters()):
        owner_name, _, leaf = name.rpartition(".")
        part, held = parts.get(name), None
        if part is not None:
            held = nn.Parameter(part.to(ranks.device, dtype), parameter.requires_grad)
        setattr(model.get_submodule(owner_name), leaf, held)
    holders = tuple(sorted(set(placement.subnet_device)))
    return RankModel(
        model,
        workload,
        placement,
        ranks,
        shards,
        dtype,
        frozenset(trained),
        _replicas("the trunk's gradients", placement.owners, trunk, ranks),
        _replicas("the gradients of shared factors", holders, shared, ranks),
    )


def _replicas(
    what: str, members: tuple[int, ...], shapes: Mapping[str, torch.Size], ranks: Ranks
) -> Replicas:
    """All ranks must call this together, for it makes a group."""
    group: Any = None
    if shapes and 1 < len(members) < ranks.num_ranks:
        with ranks.watched(f"the making of a group for {what}"):
            group = dist.new_group(list(members), timeout=timedelta(seconds=ranks.timeout_s))
        group = group if ranks.rank in members else None
    return Replicas(what, members, group, shapes)


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
