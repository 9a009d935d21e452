"""Cutting the blocks of a model into subnets: groups of heads with their share of the MLP."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.shape import ModelShape


@dataclass(frozen=True)
class Subnet:
    """Heads of one block and the hidden units ``hidden_start .. hidden_stop - 1`` of its MLP."""

    block: int
    heads: tuple[int, ...]
    hidden_start: int
    hidden_stop: int

    @property
    def num_hidden(self) -> int:
        return self.hidden_stop - self.hidden_start


@dataclass(frozen=True)
class Partition:
    """Every (block, head) and every hidden unit in exactly one subnet, ordered by block.

    Raises:
        InputError: a head or hidden unit is missing, doubled or outside the model.
    """

    subnets: tuple[Subnet, ...]
    num_blocks: int
    num_heads: int
    mlp_hidden: int

    def __post_init__(self) -> None:
        if [s.block for s in self.subnets] != sorted(s.block for s in self.subnets):
            raise InputError("partition: subnets must be ordered by block")
        blocks = {s.block for s in self.subnets}
        if blocks != set(range(self.num_blocks)):
            raise InputError(
                f"partition: blocks with subnets are {sorted(blocks)}; "
                f"they must be 0 to {self.num_blocks - 1}"
            )
        for block in range(self.num_blocks):
            members = [self.subnets[s] for s in self.of_block(block)]
            heads = sorted(h for s in members for h in s.heads)
            if heads != list(range(self.num_heads)):
                raise InputError(
                    f"partition: block {block} has heads {heads}; each of 0 to "
                    f"{self.num_heads - 1} must be in exactly one subnet"
                )
            stop = 0
            for start, end in sorted((s.hidden_start, s.hidden_stop) for s in members):
                if start != stop or end < start:
                    raise InputError(
                        f"partition: block {block} has hidden units {start} to {end - 1} after "
                        f"{stop - 1}; the shares must follow one another"
                    )
                stop = end
            if stop != self.mlp_hidden:
                raise InputError(
                    f"partition: block {block} covers {stop} hidden units of {self.mlp_hidden}"
                )

    def __len__(self) -> int:
        return len(self.subnets)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: what is remembered by workloads asks for it each time."""
        return hash((self.subnets, self.num_blocks, self.num_heads, self.mlp_hidden))

    @cached_property
    def block(self) -> np.ndarray:
        """Block of each subnet, int ``[num_subnets]``."""
        return np.array([s.block for s in self.subnets])

    @cached_property
    def heads(self) -> np.ndarray:
        """Number of heads of each subnet, int ``[num_subnets]``."""
        return np.array([len(s.heads) for s in self.subnets])

    @cached_property
    def hidden(self) -> np.ndarray:
        """Number of hidden units of each subnet, int ``[num_subnets]``."""
        return np.array([s.num_hidden for s in self.subnets])

    @cached_property
    def _block_bounds(self) -> np.ndarray:
        return np.searchsorted(self.block, np.arange(self.num_blocks + 1))

    def of_block(self, block: int) -> range:
        """Indices of the subnets of a block."""
        return range(self._block_bounds[block], self._block_bounds[block + 1])


def partition_by_heads(shape: ModelShape, heads_per_subnet: int | Sequence[int] = 1) -> Partition:
    """Cut every block alike into groups of neighbouring heads; hidden units follow in proportion.

    Args:
        shape: the model.
        heads_per_subnet: one size for all groups, or the sizes of a block's groups in order.

    Raises:
        InputError: the sizes do not add up to the heads of a block.
    """
    if isinstance(heads_per_subnet, int):
        if heads_per_subnet < 1 or shape.num_heads % heads_per_subnet:
            raise InputError(
                f"heads per subnet is {heads_per_subnet}; it must divide the {shape.num_heads} "
                f"heads of {shape.name}"
            )
        sizes = [heads_per_subnet] * (shape.num_heads // heads_per_subnet)
    else:
        sizes = list(heads_per_subnet)
        if any(size < 1 for size in sizes) or sum(sizes) != shape.num_heads:
            raise InputError(
                f"heads per subnet is {sizes}; sizes of at least 1 must add up to the "
                f"{counted(shape.num_heads, 'head')} of {shape.name}"
            )
    head_bounds = np.concatenate([[0], np.cumsum(sizes)])
    hidden_bounds = head_bounds * shape.mlp_hidden // shape.num_heads
    subnets = tuple(
        Subnet(
            block=block,
            heads=tuple(range(head_bounds[j], head_bounds[j + 1])),
            hidden_start=int(hidden_bounds[j]),
            hidden_stop=int(hidden_bounds[j + 1]),
        )
        for block in range(shape.num_blocks)
        for j in range(len(sizes))
    )
    return Partition(subnets, shape.num_blocks, shape.num_heads, shape.mlp_hidden)
