"""The part of a model that one rank holds, and its way from and to the whole model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from d2ft_sched.placement import Placement
from d2ft_sched.workload import Workload
from runtime.lane_pass import Core, Linears, attention_core
from runtime.ranks import Ranks
from runtime.shards import Shard, join_shards, rank_shards, read_shards


@dataclass(frozen=True)
class Sublayer:
    """Attention or MLP of a block; on a rank, of what it holds of them.

    Attributes:
        name: "attention" or "mlp".
        norm: before it; of use to owners only.
        linears: parameters of the heads or hidden units held; None if there are none.
        core: what stands between the linear maps.
        bias: added to the results on owners, or None.
        scale: LayerScale's vector on owners, or None.
    """

    name: str
    norm: nn.Module
    linears: Linears | None
    core: Core
    bias: nn.Parameter | None
    scale: nn.Parameter | None


@dataclass(frozen=True, eq=False)
class RankModel:
    """What one rank holds of a model.

    Attributes:
        module: timm's model in which every parameter that is not held is None, and every parameter
            of heads or hidden units has the shape of what is held; names are timm's.
        workload: the model's subnets and the micro-batches.
        placement: whose devices are the ranks.
        ranks: the job.
        shards: of every rank.
        dtype: of all parameters.
        owners_group: of the ranks that hold the trunk; None if these are all ranks, or one.
    """

    module: VisionTransformer
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
        return [_sublayers(block) for block in self.module.blocks]


def read_rank_model(
    model: VisionTransformer,
    path: Path,
    workload: Workload,
    placement: Placement,
    ranks: Ranks,
) -> RankModel:
    """Turn `model` into this rank's part and read that part alone from a safetensors file.

    Args:
        model: on the meta device; it is changed.
        path: a file in timm's layout whose tensors have the model's shapes.
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
    model: VisionTransformer, workload: Workload, placement: Placement, ranks: Ranks
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
    """The whole model on rank 0, by timm's names; nothing on the other ranks.

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
    model: VisionTransformer, workload: Workload, placement: Placement
) -> tuple[tuple[Shard, ...], ...]:
    ranks = range(placement.num_devices)
    return tuple(rank_shards(model, workload, placement, rank) for rank in ranks)


def _hold(
    model: VisionTransformer,
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


def _sublayers(block: Any) -> tuple[Sublayer, Sublayer]:
    attn, mlp = block.attn, block.mlp
    attention = Sublayer(
        name="attention",
        norm=block.norm1,
        linears=_linears(attn.qkv, attn.proj),
        core=partial(attention_core, head_dim=attn.head_dim),
        bias=attn.proj.bias,
        scale=getattr(block.ls1, "gamma", None),
    )
    return attention, replace(
        attention,
        name="mlp",
        norm=block.norm2,
        linears=_linears(mlp.fc1, mlp.fc2),
        core=mlp.act,
        bias=mlp.fc2.bias,
        scale=getattr(block.ls2, "gamma", None),
    )


def _linears(linear_in: nn.Linear, linear_out: nn.Linear) -> Linears | None:
    if linear_in.weight is None:
        return None
    return Linears(linear_in.weight, linear_in.bias, linear_out.weight)


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
