"""The part of a model that one rank holds, and its way from and to the whole model."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from d2ft_sched.costs.gradient_sums import EMBEDDING, GradientSum, gradient_sums
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.replica import Replica, microbatch_owners
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.families.family import ModelFamily, UnitAxis
from runtime.families.known_families import family_of
from runtime.families.low_rank import adapted_weight
from runtime.families.sublayer import Sublayer
from runtime.ranks.all_to_all import Peers
from runtime.ranks.gradient_buckets import Bucket, make_bucket, sum_layout
from runtime.ranks.job import Ranks
from runtime.ranks.shards import (
    Shard,
    parameter_blocks,
    rank_shards,
    read_shards,
    sliced_axis,
    trained_dtype,
)
from runtime.torch_device import backend_of

INITIAL_STD = 0.02
"""Of values that are drawn, as is usual for transformers."""


@dataclass(frozen=True, eq=False)
class RankModel:
    """What one rank holds of a model.

    Attributes:
        module: the model in which every parameter that is not held is None, and every parameter
            of heads or hidden units has the shape of what is held; names stay.
        workload: the model's subnets and the micro-batches of all replicas.
        replicas: whose devices are the ranks; a rank may be in none.
        ranks: the job.
        shards: of every rank.
        dtype: of all parameters that train; what is frozen may be narrower.
        trained: shapes of the parameters that train, held here or not, by name, in an order that is
            the same on all ranks.
        trained_blocks: where in the model each of these is, as `parameter_blocks` says.
        groups: of several ranks, by members, to sum gradients in; None where they are all ranks, or
            this rank is none of them.
        peers: the ranks of this one's replica, between which messages of its lanes go.
    """

    module: nn.Module
    workload: Workload
    replicas: tuple[Replica, ...]
    ranks: Ranks
    shards: tuple[tuple[Shard, ...], ...]
    dtype: torch.dtype
    trained: Mapping[str, torch.Size]
    trained_blocks: Mapping[str, int]
    groups: Mapping[tuple[int, ...], dist.ProcessGroup | None]
    peers: Peers

    @property
    def own_shards(self) -> tuple[Shard, ...]:
        """Of this rank, in the order of the parameters of `module`."""
        return self.shards[self.ranks.rank]

    @property
    def replica(self) -> Replica | None:
        """That this rank is in."""
        return next((one for one in self.replicas if self.ranks.rank in one.devices), None)

    @property
    def owners(self) -> tuple[int, ...]:
        """Ranks that own micro-batches, of all replicas, sorted; these hold the trunk."""
        return tuple(sorted(set(microbatch_owners(self.replicas))))

    def written_shards(self, rank: int) -> tuple[Shard, ...]:
        """What `rank` says of the whole model: the first replica says all of it, the first of its
        ranks what several hold whole."""
        speakers = self.replicas[0].devices
        if rank not in speakers:
            return ()
        before = [self.shards[speaker] for speaker in speakers if speaker < rank]
        said_before = {s.name for shards in before for s in shards if s.is_whole}
        return tuple(s for s in self.shards[rank] if s.name not in said_before)

    def bucket(self, one: GradientSum) -> Bucket:
        """Where a sum that this rank takes part in has the values of its parameters."""
        made = self._buckets.get(one)
        if made is None:
            group = self.groups[one.members]
            names = [name for name, block in self.trained_blocks.items() if block == one.block]
            full = {name: self.trained[name] for name in names}
            layout = sum_layout(one, full, self.family, self.workload)
            made = self._buckets[one] = make_bucket(
                one, layout, self.own_shards, group, self.ranks.device
            )
        return made

    @cached_property
    def _buckets(self) -> MutableMapping[GradientSum, Bucket]:
        """Made so far, of sums that are still in use."""
        return WeakKeyDictionary()

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those held, by name."""
        return dict(self.module.named_parameters())

    @cached_property
    def held_of_block(self) -> dict[int, dict[str, nn.Parameter]]:
        """Parameters held that train, by name, of every place that `trained_blocks` tells apart."""
        places = range(EMBEDDING, self.workload.shape.num_blocks + 1)
        held: dict[int, dict[str, nn.Parameter]] = {block: {} for block in places}
        for name, block in self.trained_blocks.items():
            if name in self.parameters:
                held[block][name] = self.parameters[name]
        return held

    @cached_property
    def unit_axes(self) -> dict[str, UnitAxis | None]:
        """Of the weight that each parameter of `trained` is of, or adapts."""
        return {name: self.family.unit_axis(adapted_weight(name)[0]) for name in self.trained}

    @cached_property
    def made_by_lanes(self) -> frozenset[str]:
        """Names of parameters whose gradients lanes make anew, and do not add to."""
        if self.workload.lora is not None:
            return frozenset()
        return frozenset(n for n in self.trained if sliced_axis(self.family, n) is not None)

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
    replicas: Sequence[Replica],
    ranks: Ranks,
) -> RankModel:
    """Turn `model` into this rank's part and read that part alone from a safetensors file.

    Args:
        model: on the meta device; it is changed.
        path: a file in the model's layout whose tensors have the model's shapes.
        workload: the model's subnets and the micro-batches of all replicas.
        replicas: whose devices are the ranks.
        ranks: all of which must call this.

    Raises:
        InputError: the file is unreadable or of another model.
    """
    shards = _all_shards(model, workload, replicas, ranks)
    names = {name for name, _ in model.named_parameters()}
    parts = read_shards(path, shards[ranks.rank], trained_dtype(model), names)
    return _hold(model, parts, shards, workload, replicas, ranks)


def draw_rank_model(
    model: nn.Module, workload: Workload, replicas: Sequence[Replica], ranks: Ranks
) -> RankModel:
    """Turn `model` into this rank's part with values that are drawn here, for measurements.

    Args: as of `read_rank_model`.
    """
    shards = _all_shards(model, workload, replicas, ranks)
    parts = {s.name: INITIAL_STD * torch.randn(s.shape) for s in shards[ranks.rank]}
    return _hold(model, parts, shards, workload, replicas, ranks)


def scatter_rank_model(
    model: nn.Module, workload: Workload, replicas: Sequence[Replica], ranks: Ranks
) -> RankModel:
    """Turn `model` into this rank's part, with the values that rank 0 has.

    Args:
        model: whole on rank 0, on the meta device on all others; it is changed.
        workload: the model's subnets and the micro-batches of all replicas.
        replicas: whose devices are the ranks.
        ranks: all of which must call this.
    """
    shards = _all_shards(model, workload, replicas, ranks)
    dtype = trained_dtype(model)
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
    return _hold(model, parts, shards, workload, replicas, ranks)


def _all_shards(
    model: nn.Module, workload: Workload, replicas: Sequence[Replica], ranks: Ranks
) -> tuple[tuple[Shard, ...], ...]:
    return tuple(rank_shards(model, workload, replicas, rank) for rank in range(ranks.num_ranks))


def _hold(
    model: nn.Module,
    parts: Mapping[str, Tensor],
    shards: tuple[tuple[Shard, ...], ...],
    workload: Workload,
    replicas: Sequence[Replica],
    ranks: Ranks,
) -> RankModel:
    dtype = trained_dtype(model)
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    names = [name for name, _ in model.named_parameters()]
    blocks = parameter_blocks(family_of(model), names, workload.shape.num_blocks)
    places: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(parameter, []).append(name)
    for parameter, (name, *others) in places.items():
        part, held = parts.get(name), None
        if part is not None:
            held = nn.Parameter(part.to(ranks.device, parameter.dtype), parameter.requires_grad)
        for place in (name, *others):
            owner_name, _, leaf = place.rpartition(".")
            setattr(model.get_submodule(owner_name), leaf, held)
    return RankModel(
        model,
        workload,
        tuple(replicas),
        ranks,
        shards,
        dtype,
        trained,
        {name: blocks[name] for name in trained},
        _sum_groups(workload, replicas, ranks),
        _peers(replicas, ranks),
    )


def _sum_groups(
    workload: Workload, replicas: Sequence[Replica], ranks: Ranks
) -> dict[tuple[int, ...], dist.ProcessGroup | None]:
    """One group for each set of ranks that any schedule sums gradients over."""
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    member_sets = sorted({s.members for s in gradient_sums(workload, replicas, dense)})
    return {
        members: None if len(members) == ranks.num_ranks else _new_group(members, ranks)
        for members in member_sets
    }


def _peers(replicas: Sequence[Replica], ranks: Ranks) -> Peers:
    """Messages that are not point to point go through a group of the replica's own, so that they
    wait behind no sum."""
    own = Peers((ranks.rank,), None)
    for replica in replicas:
        group = None
        if len(replica.devices) > 1 and backend_of(ranks.device) != "gloo":
            group = _new_group(replica.devices, ranks)
        if ranks.rank in replica.devices:
            own = Peers(replica.devices, group)
    return own


def _new_group(members: tuple[int, ...], ranks: Ranks) -> dist.ProcessGroup | None:
    """All ranks must call this together; None on those that are no members."""
    with ranks.watched(f"the making of a group of ranks {members}"):
        group: Any = dist.new_group(list(members), timeout=timedelta(seconds=ranks.timeout_s))
    return group if ranks.rank in members else None


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
