"""Schedules that keep a coverage, changed operation by operation: towards the least time, then
towards the most value within a time.

Levels bound what every device spends, and the step of the schedule that they hold only by and
large; where a target leaves no room for that, schedules are timed themselves.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.problem.budget import BlockLevels
from d2ft_sched.problem.formulate import Formulation
from d2ft_sched.problem.link_share import level_granting_s
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation
from sim.target.block_times import BlockTimes

NUM_CHANGES = 16
"""Changed schedules that are timed together; of each block the best one is taken."""
MAX_ROUNDS = 60
PATIENCE = 12
"""Rounds without a better one after which it is enough."""
MOVED, ALIKE = 0.4, 0.3
"""Of changes, those that exchange what two rows do with a micro-batch, and those that treat one as
another; the rest changes one operation."""
ROUNDING = 1e-9
"""Relative room of levels, so that rounding takes no operation away."""


@dataclass(frozen=True, eq=False)
class CoveredBlocks:
    """What schedules of the rows of a formulation keep and take, block by block.

    Attributes:
        times: of blocks.
        dense: the formulation without limits but those of memory.
        coverage: active rows of every block that each micro-batch passes.
        shares: from `d2ft_sched.problem.formulate.message_shares`.
    """

    times: BlockTimes
    dense: Formulation
    coverage: int
    shares: np.ndarray

    @cached_property
    def _rows(self) -> list[np.ndarray]:
        block = self.dense.row_block
        return [np.flatnonzero(block == b) for b in range(int(block.max()) + 1)]

    def quickest(self, operations: np.ndarray) -> np.ndarray:
        """A covering schedule of the rows, or one in turn where that is quicker, changed until no
        quicker one is found of any block, int8 ``[num_rows, num_microbatches]``."""
        starts = np.stack([operations, self._in_turn()])
        better = self._seconds(starts).argmin(axis=1)
        mixed = starts[better[self.dense.row_block], np.arange(len(operations))]
        start = operations if self.dense.problem.violation(mixed) else mixed
        return self._changed(start, np.zeros(len(self._rows)))

    def _in_turn(self) -> np.ndarray:
        """Every micro-batch passes rows of the devices that have least to do so far, the first of
        them: so the same ones again, which run together."""
        problem = self.dense.problem
        seconds = problem.cost[0, ..., Operation.FORWARD_ONLY]
        operations = np.full(seconds.shape, Operation.SHORTCUT, dtype=np.int8)
        spent_s = np.zeros(problem.num_knapsacks)
        for rows in self._rows:
            knapsack = problem.knapsack[rows, 0]
            for i in range(problem.num_microbatches):
                for _ in range(self.coverage):
                    is_taken = operations[rows, i] != Operation.SHORTCUT
                    after_s = np.where(is_taken, np.inf, spent_s[knapsack] + seconds[rows, i])
                    first = int(after_s.argmin())
                    operations[rows[first], i] = Operation.FORWARD_ONLY
                    spent_s[knapsack[first]] = after_s[first]
        return operations

    def filled(self, operations: np.ndarray, spare_s: float) -> np.ndarray:
        """A covering schedule of the rows, changed to keep more value in as many seconds more."""
        within_s = self._seconds(operations[None])[:, 0] + spare_s / len(self._rows)
        return self._changed(operations, within_s)

    def levels(self, operations: np.ndarray) -> BlockLevels:
        """The least levels that hold a schedule of the rows."""
        spent = self.dense.problem.spending(operations)
        block, demand = self.dense.knapsack_block, self.dense.dense[:, 1]
        compute_s = np.zeros(len(self._rows))
        np.maximum.at(compute_s, block, spent[:, 0])
        messages_s = []
        for b in range(len(self._rows)):
            own = block == b
            needed = np.minimum(spent[own, 1], demand[own])
            messages_s.append(level_granting_s(self.shares[:, own], demand[own], needed))
        room = 1 + ROUNDING
        return BlockLevels(
            tuple((room * compute_s).tolist()), tuple((room * np.array(messages_s)).tolist())
        )

    def _changed(self, operations: np.ndarray, within_s: np.ndarray) -> np.ndarray:
        """Changed until no block is found that exceeds its seconds by less, or keeps more."""
        rng = np.random.default_rng(0)
        best, waited = operations.astype(np.int8), 0
        excess_s, value = (of[:, 0] for of in self._excess_and_value(best[None], within_s))
        for _ in range(MAX_ROUNDS):
            tried = np.stack([self._neighbour(best, rng) for _ in range(NUM_CHANGES)])
            tried_s, kept = self._excess_and_value(tried, within_s)
            waited += 1
            for block, rows in enumerate(self._rows):
                chosen = np.lexsort((-kept[block], tried_s[block]))[0]
                now = (tried_s[block, chosen], -kept[block, chosen])
                if now >= (excess_s[block], -value[block]):
                    continue
                changed = best.copy()
                changed[rows] = tried[chosen, rows]
                if self.dense.problem.violation(changed) is None:
                    best, waited = changed, 0
                    excess_s[block], value[block] = now[0], -now[1]
            if waited >= PATIENCE:
                break
        return best

    def _neighbour(self, operations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """With one change in every block that leaves it covered."""
        changed = operations.copy()
        for rows in self._rows:
            microbatch, like = rng.integers(operations.shape[1], size=2)
            one, other = rng.choice(rows), rng.choice(rows)
            kind = rng.random()
            if kind < MOVED:
                changed[[one, other], microbatch] = changed[[other, one], microbatch]
                continue
            if kind < MOVED + ALIKE:
                changed[rows, microbatch] = operations[rows, like]
                continue
            changed[one, microbatch] = rng.integers(NUM_OPERATIONS)
            active = changed[rows, microbatch] != Operation.SHORTCUT
            if np.count_nonzero(active) < self.coverage:
                changed[one, microbatch] = operations[one, microbatch]
        return changed

    def _excess_and_value(
        self, operations: np.ndarray, within_s: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of schedules ``[num, num_rows, num_microbatches]``, float ``[num_blocks, num]`` both."""
        index = operations[..., None].astype(np.intp)
        chosen = np.take_along_axis(self.dense.problem.value[None], index, axis=3)
        gained = chosen.sum(axis=(2, 3))
        value = np.stack([gained[:, rows].sum(axis=1) for rows in self._rows])
        return np.maximum(self._seconds(operations) - within_s[:, None], 0.0), value

    def _seconds(self, operations: np.ndarray) -> np.ndarray:
        return self.times.seconds(operations[:, self.dense.row])
