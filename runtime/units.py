"""Some of the heads or hidden units that a weight has: which of its rows or columns they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

Run = tuple[int, int]
"""First index, and one past the last, of neighbours."""


class Piece(NamedTuple):
    """Neighbouring units in the weight, and where they are in a tensor that has only a group's."""

    of_all: slice
    of_own: slice


@dataclass(frozen=True)
class Units:
    """Some rows, or columns, of a weight.

    Attributes:
        runs: where they are in every part of the weight, in order.
        num_all: units of a part of the weight.
        num_parts: equal parts that the weight is stacked of: 3 for queries, keys and values.
    """

    runs: tuple[Run, ...]
    num_all: int
    num_parts: int = 1

    @cached_property
    def num_own(self) -> int:
        """Rows or columns, of all parts."""
        return self.num_parts * sum(stop - start for start, stop in self.runs)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """They as neighbours in the whole weight, in order."""
        starts = np.arange(self.num_parts)[:, None] * self.num_all
        rows = (starts + run_indices(self.runs)).ravel()
        return packed_pieces(index_runs(rows))

    def split(self, some: Sequence[Run]) -> tuple[tuple[Piece, bool], ...]:
        """Pieces that are all among the units `some`, or all not, and whether they are."""
        is_some = np.zeros(self.num_all, dtype=bool)
        is_some[run_indices(some)] = True
        is_some = np.tile(is_some, self.num_parts)
        pieces = []
        for piece in self.pieces:
            flags = is_some[piece.of_all]
            cuts = [0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(flags)]
            for start, stop in pairwise(cuts):
                first, own = piece.of_all.start + start, piece.of_own.start + start
                size = stop - start
                part = Piece(slice(first, first + size), slice(own, own + size))
                pieces.append((part, bool(flags[start])))
        return tuple(pieces)


def run_indices(runs: Sequence[Run]) -> np.ndarray:
    """All indices of some runs, int64, in order."""
    return np.concatenate([np.arange(0), *(np.arange(start, stop) for start, stop in runs)])


def index_runs(indices: np.ndarray) -> tuple[Run, ...]:
    """Runs of neighbours among sorted indices, in order."""
    if len(indices) == 0:
        return ()
    cuts = np.flatnonzero(np.diff(indices) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(indices, cuts))


def packed_pieces(runs: Sequence[Run]) -> tuple[Piece, ...]:
    """Each run, and where it is if the runs stand one after another."""
    pieces, offset = [], 0
    for start, stop in runs:
        pieces.append(Piece(slice(start, stop), slice(offset, offset + stop - start)))
        offset += stop - start
    return tuple(pieces)
