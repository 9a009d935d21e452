"""Low-rank adapters (LoRA, arXiv 2106.09685): their size, and what training them alone needs.

A linear map W becomes ``W + alpha / rank * B A`` with W frozen. Of a sub-layer's map in, A
``[rank, width]`` is shared by the block and the rows of B belong to heads or hidden units; of its
map out, the columns of A belong to them and B ``[width, rank]`` is shared. Where queries, keys and
values, or gate and up, have maps of their own, each of them has its own A. A classifier trains,
too; the rest of the trunk is frozen, a head over a vocabulary included.
"""

import math
from dataclasses import dataclass

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape


@dataclass(frozen=True)
class Lora:
    """Adapters on all linear maps of every block.

    Attributes:
        rank: of every adapter.
        alpha: scale of the adapters times their rank.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"LoRA rank is {self.rank}; it must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"LoRA alpha is {self.alpha}; it must be above 0 and finite")

    @property
    def scale(self) -> float:
        """Factor on the product of the two low-rank maps."""
        return self.alpha / self.rank

    def head_parameters(self, shape: ModelShape) -> int:
        """Of one head: its rows of B of the maps in, its columns of A of the map out."""
        return (shape.head_rows + shape.head_columns) * self.rank

    def hidden_unit_parameters(self, shape: ModelShape) -> int:
        """Of one hidden unit: its rows of B of the maps in, a column of A of the map out."""
        return (shape.hidden_rows + 1) * self.rank

    def shared_parameters(self, shape: ModelShape) -> int:
        """Of what a block shares: A of all maps in, B of both maps out."""
        return (sum(shape.num_maps_in) + 2) * shape.width * self.rank
