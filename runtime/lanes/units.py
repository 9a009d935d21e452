"""Rows and columns of weights, and tokens, as runs of neighbours: views wherever they are one."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Run = tuple[int, int]
"""First index, and one past the last, of neighbours."""


@dataclass(frozen=True)
class Units:
    """Rows, or columns, of a weight that some heads or hidden units have.

    Attributes:
        runs: of heads or hidden units, counted among those that the weight has, in order.
        num_all: that the weight has.
        parts: how many rows each has in every part that the weight is stacked of: queries, keys
            and values, which may be unequal.
    """

    runs: tuple[Run, ...]
    num_all: int
    parts: tuple[int, ...] = (1,)

    @property
    def is_all(self) -> bool:
        """Whether the weight has no others."""
        return self.runs == ((0, self.num_all),)

    @property
    def number(self) -> int:
        """Of the heads or hidden units."""
        return sum(stop - start for start, stop in self.runs)

    @property
    def is_one_run(self) -> bool:
        """Whether they neighbour one another in the whole weight."""
        return len(self.runs) == 1 and (len(self.parts) == 1 or self.is_all)

    @property
    def indices(self) -> np.ndarray:
        """Of the heads or hidden units, int, sorted."""
        return np.concatenate([np.arange(*run) for run in self.runs])

    def of_maps(self, num_maps: int) -> tuple["Units", ...]:
        """The same in each of the maps whose outputs the parts are, in equal numbers."""
        size = len(self.parts) // num_maps
        return tuple(
            replace(self, parts=self.parts[i * size : (i + 1) * size]) for i in range(num_maps)
        )

    def take(self, tensor: Tensor, dim: int) -> Tensor:
        """Their part of `tensor` along `dim`: a view if they are one run, else a copy."""
        if self.is_all:
            return tensor
        views = self.views(tensor, dim) or [tensor.narrow(dim, 0, 0)]
        return views[0] if len(views) == 1 else torch.cat(views, dim)

    def places(self, tensor: Tensor, dim: int) -> list[Tensor]:
        """Views of all that they have of `tensor` along `dim`, run by run in every part; one where
        they are all."""
        return [tensor] if self.is_all else self.views(tensor, dim)

    def views(self, tensor: Tensor, dim: int) -> list[Tensor]:
        """`places`, part by part even where they are all."""
        views, first = [], 0
        for rows in self.parts:
            views += [
                tensor.narrow(dim, first + start * rows, (stop - start) * rows)
                for start, stop in self.runs
            ]
            first += rows * self.num_all
        return views


@dataclass(frozen=True)
class UnitsWithin:
    """Some units of a lane group.

    Attributes:
        in_weight: where they are in a weight.
        in_group: where they are among all of the group, in as many runs.
    """

    in_weight: Units
    in_group: Units

    def of_maps(self, num_maps: int) -> tuple["UnitsWithin", ...]:
        """The same in each of several maps, see `Units.of_maps`."""
        both = self.in_weight.of_maps(num_maps), self.in_group.of_maps(num_maps)
        return tuple(UnitsWithin(*own) for own in zip(*both, strict=True))

    def taken(self, tensor: Tensor, dim: int) -> list[Tensor]:
        """Views of their part of what the group has along `dim`, one for each of
        ``in_weight.places``."""
        return [tensor] if self.in_weight.is_all else self.in_group.views(tensor, dim)


def index_runs(indices: np.ndarray) -> tuple[Run, ...]:
    """Runs of neighbours among sorted indices, in order."""
    if len(indices) == 0:
        return ()
    cuts = np.flatnonzero(indices[1:] - indices[:-1] != 1)
    first = indices[np.concatenate(([0], cuts + 1))].tolist()
    last = indices[np.concatenate((cuts, [-1]))].tolist()
    return tuple((start, stop + 1) for start, stop in zip(first, last, strict=True))


def joined_runs(starts: np.ndarray, sizes: np.ndarray, chosen: np.ndarray) -> tuple[Run, ...]:
    """Runs that begin at `starts` and have `sizes`, of those chosen, in their order; those that
    follow one another joined."""
    runs: list[Run] = []
    for start, size in zip(starts[chosen].tolist(), sizes[chosen].tolist(), strict=True):
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + size)
        else:
            runs.append((start, start + size))
    return tuple(runs)
