"""What every block can do under pairs of levels, and which pair each block should get.

For every pair of levels (compute, messages) the exact schedule of each block is found and its time
simulated. Blocks do not overlap, so a step is their sum and the rest; which levels each block gets
is then a multiple-choice knapsack over the blocks, solved on a fine grid of seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import BlockLevels, Budget
from d2ft_sched.problem.formulate import Formulation, formulate, level_capacities, message_shares
from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.scores import Scores
from d2ft_sched.problem.shared import Coverage
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.coupled.covering import covering
from d2ft_sched.solvers.registry import solve
from sim.target.block_times import BlockTimes
from sim.target.covered import CoveredBlocks

MAX_COMPUTE_LEVELS = 20
MAX_MESSAGE_LEVELS = 14
"""Levels of each kind that are tried in all pairs."""
GRID_CELLS = 20_000
"""Cells of the time that blocks share; each block's time is rounded up to them."""


@dataclass(frozen=True, eq=False)
class LevelChoices:
    """What each block can do: one column per pair of levels.

    Attributes:
        levels: compute and message level, float ``[num_pairs, 2]``.
        seconds: simulated lanes and messages, float ``[num_blocks, num_pairs]``.
        value: objective, of the same shape; -inf where the pair is not to be chosen.
        blocks: what schedules of a coverage take; None without one.
        covering: of its rows, the quickest that was seen of every block, int8 ``[num_rows,
            num_microbatches]``; None without a coverage, or where no levels hold one.
    """

    levels: np.ndarray
    seconds: np.ndarray
    value: np.ndarray
    blocks: CoveredBlocks | None = None
    covering: np.ndarray | None = None

    @property
    def highest(self) -> BlockLevels:
        """The levels that leave every block all it can do."""
        compute, messages = self.levels.max(axis=0).tolist()
        num_blocks = len(self.seconds)
        return BlockLevels((compute,) * num_blocks, (messages,) * num_blocks)

    @cached_property
    def least(self) -> BlockLevels:
        """Those under which every block takes least, of all that may be chosen."""
        return self.of_pairs(self._allowed_s.argmin(axis=1))

    @property
    def least_s(self) -> float:
        """Seconds of all blocks under them."""
        return float(self._allowed_s.min(axis=1).sum())

    @property
    def _allowed_s(self) -> np.ndarray:
        return np.where(np.isneginf(self.value), np.inf, self.seconds)

    def of_pairs(self, chosen: np.ndarray) -> BlockLevels:
        """The levels of a pair for each block, int ``[num_blocks]``."""
        levels = self.levels[chosen]
        return BlockLevels(tuple(levels[:, 0].tolist()), tuple(levels[:, 1].tolist()))


def level_choices(
    deployment: Deployment, scores: Scores, aligned: bool, coverage: int = 0
) -> LevelChoices:
    """Try all pairs of levels on one placement.

    Args:
        deployment, scores: as for a plan.
        aligned: whether all subnets of a block on one device do the same with a micro-batch.
        coverage: see `Budget`; a pair under which a block has no room for it has a value of -inf.
    """
    workload = deployment.workload
    dense = formulate(deployment, scores, Budget(patterns=1 if aligned else None))
    shares = message_shares(deployment, dense.knapsack_device)
    num_blocks = workload.shape.num_blocks
    compute, messages = _compute_levels(dense, coverage), _message_levels(workload, dense, shares)
    rule = Coverage(dense.row_block, coverage)
    if coverage:
        enough = _coverable(dense, shares, product(compute, messages[-1:]), rule)
        compute = compute[enough] if enough.any() else compute[-1:]
        enough = _coverable(dense, shares, product(compute[-1:], messages), rule)
        messages = messages[enough] if enough.any() else messages[-1:]
    pairs = np.array(
        list(product(_thinned(compute, MAX_COMPUTE_LEVELS), _thinned(messages, MAX_MESSAGE_LEVELS)))
    )
    capacity = _capacities(dense, shares, pairs)
    schedules = _solve_capacities(dense, capacity)
    times = BlockTimes(deployment)
    block, value = workload.partition.block, scores.values()
    gained = np.zeros((num_blocks, len(pairs)))
    for j, schedule in enumerate(schedules):
        chosen = np.take_along_axis(value, schedule[..., None].astype(np.intp), axis=2)
        gained[:, j] = np.bincount(block, chosen.sum(axis=(1, 2)), minlength=num_blocks)
    seconds = times.seconds(schedules)
    if not coverage:
        return LevelChoices(pairs, seconds, gained)
    least, covered = covering(dense.problem, rule, capacity)
    least_s = times.seconds(least[:, dense.row])
    seconds = np.maximum(seconds, least_s)
    gained[~covered.T] = -np.inf
    quickest = None
    if covered.any(axis=0).all():
        of_block = np.where(covered.T, least_s, np.inf).argmin(axis=1)
        quickest = least[of_block[dense.row_block], np.arange(len(dense.row_block))]
    blocks = CoveredBlocks(times, dense, coverage, shares)
    return LevelChoices(pairs, seconds, gained, blocks, quickest)


def _capacities(dense: Formulation, shares: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """What every knapsack may spend under each pair of levels in all blocks, float
    ``[num_pairs, num_knapsacks, num_resources]``."""
    num_blocks = int(dense.knapsack_block.max()) + 1
    kept = dense.problem.capacity[:, 2]
    cases = []
    for compute, messages in pairs.tolist():
        levels = BlockLevels((compute,) * num_blocks, (messages,) * num_blocks)
        spent = level_capacities(dense.dense, dense.knapsack_block, shares, levels)
        cases.append(np.column_stack([spent, kept]))
    return np.stack(cases)


def _coverable(
    dense: Formulation, shares: np.ndarray, pairs: Iterable[tuple[float, float]], rule: Coverage
) -> np.ndarray:
    """Under which pairs of levels some block can be covered, bool ``[num_pairs]``."""
    capacity = _capacities(dense, shares, np.array(list(pairs)))
    return np.asarray(covering(dense.problem, rule, capacity)[1].any(axis=1))


def _compute_levels(dense: Formulation, coverage: int) -> np.ndarray:
    """Seconds at which some device can run one more operation in a block, rising; forward alone as
    often as any where that may be what a coverage leaves."""
    cost, knapsack = dense.problem.cost[0], dense.problem.knapsack[:, 0]
    levels = [np.zeros(1)]
    for k in range(dense.problem.num_knapsacks):
        full, forward = (
            np.cumsum(np.sort(cost[knapsack == k, :, operation].ravel()))
            for operation in (Operation.FULL, Operation.FORWARD_ONLY)
        )
        levels.extend((full, forward[0] + full[:-1], 2 * forward[0] + full[:-1]))
        if coverage:
            levels.append(forward)
    return _distinct(np.concatenate(levels))


def _message_levels(workload: Workload, dense: Formulation, shares: np.ndarray) -> np.ndarray:
    """Seconds of links at which some device, or all alike, can serve one more micro-batch forward,
    or forward and backward, rising."""
    if not len(shares):
        return np.zeros(1)
    demand, block = dense.dense[:, 1], dense.knapsack_block
    forward = 4.0 * np.repeat(np.sort(workload.activation_bytes), 2)
    served = np.cumsum(forward)
    most, per_byte = 0.0, []
    for group in np.unique(block):
        members = block == group
        most = max(most, float((shares[:, members] @ demand[members]).max()))
        per_byte.extend(shares[:, members].max(axis=0))
        per_byte.append(shares[:, members].sum(axis=1).max())
    levels = np.minimum(np.outer(np.unique(per_byte), served).ravel(), most)
    return _distinct(np.concatenate([[0.0, most], levels]))


def _distinct(levels: np.ndarray) -> np.ndarray:
    """Levels that differ, rising; a little is added, so that rounding takes no operation away."""
    levels = np.sort(levels)
    return levels[np.concatenate([[True], np.diff(levels) > 1e-9 * levels[-1]])] * (1 + 1e-10)


def _thinned(levels: np.ndarray, most: int) -> np.ndarray:
    """Evenly picked where there are more than `most`; first and last stay."""
    if len(levels) <= most:
        return levels
    return levels[np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]


def _solve_capacities(dense: Formulation, capacity: np.ndarray) -> np.ndarray:
    """Exact schedules under many capacities at once, each distinct knapsack solved once.

    Args:
        dense: the formulation without limits.
        capacity: float ``[num_cases, num_knapsacks, num_resources]``.

    Returns:
        int8 ``[num_cases, num_subnets, num_microbatches]``.
    """
    problem = dense.problem
    row_knapsack = problem.knapsack[:, 0]
    rows: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    limits: list[np.ndarray] = []
    place: list[tuple[np.ndarray, np.ndarray, int]] = []
    num_cases = num_rows = 0
    for k in range(problem.num_knapsacks):
        members = np.flatnonzero(row_knapsack == k)
        distinct, inverse = np.unique(capacity[:, k], axis=0, return_inverse=True)
        place.append((members, inverse.ravel(), num_rows))
        rows.append(np.tile(members, len(distinct)))
        owner.append(np.repeat(num_cases + np.arange(len(distinct)), len(members)))
        limits.append(distinct)
        num_cases += len(distinct)
        num_rows += len(distinct) * len(members)
    row = np.concatenate(rows)
    solution = solve(
        Problem(
            value=problem.value[row],
            cost=problem.cost[:, row],
            knapsack=np.concatenate(owner),
            capacity=np.concatenate(limits),
        )
    )
    assert solution.schedule is not None
    operations = np.empty(
        (len(capacity), problem.num_subnets, problem.num_microbatches), dtype=np.int8
    )
    for members, inverse, first in place:
        start = first + inverse * len(members)
        operations[:, members] = solution.schedule[start[:, None] + np.arange(len(members))]
    return operations[:, dense.row]


def choose_levels(choices: LevelChoices, available_s: float) -> BlockLevels:
    """Levels of every block, of most value with a sum of seconds within `available_s`; the least
    where not even they are."""
    num_blocks = len(choices.seconds)
    cell_s = max(available_s, 1e-300) / GRID_CELLS
    weight = np.ceil(choices.seconds / cell_s - 1e-9)
    best = np.zeros(GRID_CELLS + 1)
    picked = np.zeros((num_blocks, GRID_CELLS + 1), dtype=np.int64)
    for b in range(num_blocks):
        previous, best = best, np.full(GRID_CELLS + 1, -np.inf)
        for j in _frontier(weight[b], choices.value[b]):
            used = int(weight[b, j])
            if used > GRID_CELLS:
                continue
            gained = previous[: GRID_CELLS + 1 - used] + choices.value[b, j]
            better = gained > best[used:]
            best[used:][better] = gained[better]
            picked[b, used:][better] = j
    if np.isneginf(best).all():
        return choices.least
    cell = int(np.argmax(best))
    chosen = np.zeros(num_blocks, dtype=np.int64)
    for b in range(num_blocks - 1, -1, -1):
        chosen[b] = picked[b, cell]
        cell -= int(weight[b, chosen[b]])
    return choices.of_pairs(chosen)


def _frontier(weight: np.ndarray, value: np.ndarray) -> list[int]:
    """Indices of pairs that no other beats in both, lightest first."""
    kept: list[int] = []
    for j in np.lexsort((-value, weight)).tolist():
        if value[j] > (value[kept[-1]] if kept else -np.inf):
            kept.append(j)
    return kept
