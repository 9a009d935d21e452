"""A sum of gradients as a rank sees it: one flat tensor, and which of its parameters are where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from d2ft_sched.costs.gradient_sums import EMBEDDING, GradientSum
from d2ft_sched.model.workload import Workload
from runtime.families.family import ModelFamily
from runtime.lanes.held_units import HeldUnits
from runtime.ranks.shards import Shard, axis_indices, sharing_block, sliced_axis


@dataclass(frozen=True, eq=False)
class BucketPart:
    """What of one parameter is in a bucket.

    Attributes:
        shard: which part of the whole parameter.
        start: of its values in the bucket; they lie there in the order of the part.
        positions: of them along ``shard.dim`` in what this rank holds of the parameter, int64; None
            if that is all it holds.
    """

    shard: Shard
    start: int
    positions: Tensor | None

    def of(self, flat: Tensor) -> Tensor:
        """Its place in a bucket's values, a view of the part's shape."""
        return flat[self.start : self.start + self.shard.num_values].view(self.shard.shape)

    def put(self, gradient: Tensor, flat: Tensor) -> None:
        """Write it into the bucket, of the gradient of all that is held, unless it lies there."""
        place = self.of(flat)
        if self.positions is not None:
            torch.index_select(gradient, self.shard.dim, self.positions, out=place)
        elif gradient.data_ptr() != place.data_ptr():
            place.copy_(gradient)

    def take(self, gradient: Tensor, flat: Tensor) -> None:
        """The inverse of `put`."""
        place = self.of(flat)
        if self.positions is not None:
            gradient.index_copy_(self.shard.dim, self.positions, place)
        elif gradient.data_ptr() != place.data_ptr():
            gradient.copy_(place)


@dataclass(frozen=True, eq=False)
class Bucket:
    """A `GradientSum` that this rank takes part in.

    Attributes:
        what: its name.
        members: ranks that sum it, sorted.
        group: of them; None for all ranks.
        num_values: of it.
        parts: by parameter, in an order that is the same on all members.
    """

    what: str
    members: tuple[int, ...]
    group: dist.ProcessGroup | None
    num_values: int
    parts: tuple[BucketPart, ...]


def sum_layout(
    one: GradientSum,
    full_shapes: Mapping[str, Sequence[int]],
    family: ModelFamily,
    workload: Workload,
) -> list[Shard]:
    """What of the parameters of a sum's block is in it, in the order of its values.

    Args:
        one: the sum.
        full_shapes: of the block's parameters that train, by name, in their order.
        family: of the model.
        workload: whose shape says what heads and hidden units are.
    """
    units, layout = HeldUnits(one.heads, one.hidden), list[Shard]()
    for name, shape in full_shapes.items():
        full_shape = tuple(shape)
        axis = sliced_axis(family, name)
        if axis is not None:
            indices = axis_indices(axis, units, workload)
            if len(indices):
                layout.append(Shard(name, full_shape, axis.dim, indices))
            continue
        is_shared = sharing_block(family, name) is not None
        if one.has_shared_factors if is_shared else one.has_trunk:
            layout.append(Shard(name, full_shape, 0, None))
    return layout


def make_bucket(
    one: GradientSum,
    layout: Sequence[Shard],
    held: Sequence[Shard],
    group: dist.ProcessGroup | None,
    device: torch.device,
) -> Bucket:
    """Where the values of a sum are in what a rank holds.

    These are as many as planned, but for a classifier of other classes than the plan's.

    Args:
        one: the sum; the rank is a member.
        layout: from `sum_layout`.
        held: what the rank holds.
        group: of the members.
        device: of the rank.
    """
    held_of = {shard.name: shard.indices for shard in held}
    parts, start = list[BucketPart](), 0
    for shard in layout:
        own, positions = held_of[shard.name], None
        if own is not None and shard.indices is not None and len(own) > len(shard.indices):
            positions = torch.from_numpy(np.searchsorted(own, shard.indices)).to(device)
        parts.append(BucketPart(shard, start, positions))
        start += shard.num_values
    what = {EMBEDDING: "of the embedding"}.get(one.block, f"of block {one.block}")
    return Bucket(f"the sum of gradients {what}", one.members, group, start, tuple(parts))
