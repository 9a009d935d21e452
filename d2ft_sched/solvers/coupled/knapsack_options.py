"""Whole choices of knapsacks, collected at many prices: the columns of a decomposition."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.solvers.coupled.shared_rows import SharedRows


@dataclass(frozen=True, eq=False)
class Options:
    """`num_options` choices for each knapsack; one of them is to be taken.

    Attributes:
        operation: of each item, int8 ``[num_options, num_items]``.
        value: float ``[num_options, num_knapsacks]``.
        usage: of each (knapsack, row) pair, float ``[num_options, num_pairs]``.
        rows: the shared rows.
    """

    operation: np.ndarray
    value: np.ndarray
    usage: np.ndarray
    rows: SharedRows

    def __len__(self) -> int:
        return len(self.value)

    @property
    def num_knapsacks(self) -> int:
        return int(self.value.shape[1])

    @cached_property
    def _first_pair(self) -> np.ndarray:
        owner = self.rows.pair_knapsack
        return np.flatnonzero(np.append(True, owner[1:] != owner[:-1])[: len(owner)])

    def sum_pairs(self, table: np.ndarray) -> np.ndarray:
        """Sums of ``table [n, num_pairs]`` over each knapsack's pairs, ``[n, num_knapsacks]``."""
        total = np.zeros((len(table), self.num_knapsacks))
        if len(self._first_pair):
            owner = self.rows.pair_knapsack[self._first_pair]
            total[:, owner] = np.add.reduceat(table, self._first_pair, axis=1)
        return total

    def reduced(self, price: np.ndarray) -> np.ndarray:
        """Value less the usage at the rows' prices, float ``[num_options, num_knapsacks]``."""
        return self.value - self.sum_pairs(self.usage * price[self.rows.pair_row])

    def usage_at(self, option: np.ndarray, pair: np.ndarray) -> np.ndarray:
        """Usage of pairs by options, of the arrays' common shape."""
        return self.usage[option, pair]

    def usage_of(self, taken: np.ndarray) -> np.ndarray:
        """Usage of each pair if knapsack k takes option ``taken[k]``, float ``[num_pairs]``."""
        pair = np.arange(len(self.rows.pair_row))
        return self.usage[taken[self.rows.pair_knapsack], pair]

    def value_of(self, taken: np.ndarray) -> float:
        """Total value of the options taken."""
        return float(self.value[taken, np.arange(self.num_knapsacks)].sum())

    def operations_of(self, taken: np.ndarray, knapsack: np.ndarray) -> np.ndarray:
        """Operation of each item, int8 ``[num_items]``; `knapsack` is that of each item."""
        return self.operation[taken[knapsack], np.arange(len(knapsack))]


def options(
    operation: np.ndarray,
    value: np.ndarray,
    knapsack: np.ndarray,
    num_knapsacks: int,
    rows: SharedRows,
) -> Options:
    """Options from schedules.

    Args:
        operation: of each item, int8 ``[num_options, num_items]``; feasible in every knapsack.
        value: float ``[num_items, 3]``.
        knapsack: of each item, int ``[num_items]``.
        num_knapsacks: of the problem.
        rows: the shared rows.
    """
    item = np.arange(len(knapsack))
    return Options(
        operation,
        np.stack([np.bincount(knapsack, value[item, o], num_knapsacks) for o in operation]),
        np.stack([rows.pair_usage(o) for o in operation]),
        rows,
    )


def joined(first: Options, second: Options) -> Options:
    """All options of both."""
    return Options(
        np.concatenate([first.operation, second.operation]),
        np.concatenate([first.value, second.value]),
        np.concatenate([first.usage, second.usage]),
        first.rows,
    )
