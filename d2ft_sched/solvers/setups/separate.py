"""Exact where groups separate: every choice of training groups of each part, then one knapsack.

Two groups belong to one part where a row other than a setup's, which can be broken, counts both. A
schedule of a part then depends on its own training groups alone. Those choices of a part that the
dual leaves open are solved, side by side for all parts; which of them to take is a multiple-choice
knapsack of setups. With one group to a part, equal setups and no other limit that is the top k.
"""

import time
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from d2ft_sched.problem.problem import at_operations
from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.solvers.coupled.shared_rows import reachable_limits
from d2ft_sched.solvers.dp import MAX_STATES, solve_dp
from d2ft_sched.solvers.setups.setup_dual import Dual
from d2ft_sched.solvers.setups.setup_rows import NUM_CHOICES, SetupRows
from d2ft_sched.solvers.single.dominance import undominated
from d2ft_sched.solvers.single.knapsacks import Knapsacks
from d2ft_sched.solvers.single.scaled_batch import scaled_batches
from d2ft_sched.solvers.single.unequal_costs import solve_unequal_costs

MAX_CHOICES = 64
"""Choices of a part: with more the knapsack over them would be the harder problem."""


@dataclass(frozen=True, eq=False)
class Separated:
    """What came of it.

    Attributes:
        schedule: int8 ``[num_subnets, num_microbatches]``.
        bound: no schedule is worth more.
    """

    schedule: np.ndarray
    bound: float


def part_of_groups(problem: SetupProblem, rows: SetupRows) -> np.ndarray:
    """The part of each group, int ``[num_groups]``, from 0."""
    counted = rows.matrix[~rows.is_setup].tocoo()
    num_paid = NUM_CHOICES * problem.problem.num_items
    subnet = counted.col % problem.problem.num_items // problem.problem.num_microbatches
    is_item = counted.col < num_paid
    group = np.where(is_item, problem.group[subnet * is_item], counted.col - num_paid)
    touched = np.zeros((counted.shape[0], problem.num_groups), dtype=bool)
    touched[counted.row, group] = True
    size = len(touched) + problem.num_groups
    graph = np.zeros((size, size), dtype=bool)
    graph[: len(touched), len(touched) :] = touched
    return connected_components(graph, directed=False)[1][len(touched) :]


def part_choices(dual: Dual, part: np.ndarray, gap: float) -> np.ndarray | None:
    """Training groups of every part that an optimum may have, bool ``[num_choices, num_groups]``.

    A part's choices that lose more than the gap at the dual's prices are in no better schedule.
    Where a part has fewer choices than others its first one is repeated.

    Args:
        dual: at any prices.
        part: of each group, int ``[num_groups]``.
        gap: what the dual's bound is above the best schedule known.

    Returns:
        None where a part has more than `MAX_CHOICES`.
    """
    best = dual.advantage > 0
    loss = np.abs(dual.advantage)
    changed: list[np.ndarray] = []
    for p in np.unique(part):
        lost, choices = np.zeros(1), np.zeros((1, len(part)), dtype=bool)
        for group in np.flatnonzero((part == p) & (loss <= gap)):
            more = lost + loss[group] <= gap
            lost = np.concatenate([lost, lost[more] + loss[group]])
            choices = np.concatenate([choices, choices[more]])
            choices[len(choices) - int(more.sum()) :, group] = True
            if len(choices) > MAX_CHOICES:
                return None
        changed.append(choices)
    table = np.zeros((max(map(len, changed)), len(part)), dtype=bool)
    for choices in changed:
        table[: len(choices)] |= choices
    return table ^ best


def solve_separated(
    problem: SetupProblem, part: np.ndarray, choices: np.ndarray, deadline: float
) -> Separated | None:
    """The best schedule with these choices; None where one has none, or at the deadline.

    Args:
        problem: without shared constraints.
        part: of each group, from `part_of_groups`.
        choices: from `part_choices`.
        deadline: `time.perf_counter` value.
    """
    part = np.unique(part, return_inverse=True)[1].ravel()
    num_parts, num_choices = int(part.max()) + 1, len(choices)
    part_of_subnet = part[problem.group]
    value = np.zeros((num_parts, num_choices))
    setup = np.zeros((len(problem.setup_capacity), num_parts, num_choices))
    schedules = []
    unproven = 0.0
    for choice, wanted in enumerate(choices):
        trains = _without_oversized(problem, wanted, part)
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            return None
        solution = solve_dp(problem.given(trains), time_limit_s=left_s)
        if solution.schedule is None:
            return None
        unproven += solution.upper_bound - solution.objective
        schedules.append(problem.schedule(trains, solution.schedule))
        worth = at_operations(problem.value, schedules[-1]).sum(axis=1)
        value[:, choice] = np.bincount(part_of_subnet, worth, minlength=num_parts)
        for q, cost in enumerate(problem.group_setup_cost):
            setup[q, :, choice] = np.bincount(part, cost * trains, minlength=num_parts)
    taken, bound = _taken(problem, value, setup, deadline)
    if taken is None:
        return None
    chosen = np.stack(schedules)[taken[part_of_subnet], np.arange(len(part_of_subnet))]
    return Separated(chosen, bound + unproven)


def _without_oversized(problem: SetupProblem, trains: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The set, but parts whose setups alone go over a knapsack rest."""
    spent = problem.group_knapsack_cost @ trains
    paid = problem.group_knapsack_cost[spent > problem.problem.admitted] > 0
    oversized = part[(paid & trains).any(axis=0)]
    return trains & ~np.isin(part, oversized)


def _taken(
    problem: SetupProblem, value: np.ndarray, setup: np.ndarray, deadline: float
) -> tuple[np.ndarray | None, float]:
    """The choice of each part, int ``[num_parts]``, and a bound on the sum of their values; no
    choice where none was found that fits.

    Args:
        problem: with the capacities of setups.
        value: of each choice, float ``[num_parts, num_choices]``.
        setup: what it spends, float ``[num_setup_resources, num_parts, num_choices]``.
        deadline: `time.perf_counter` value at which the search stops.
    """
    num_parts, num_choices = value.shape
    owner = np.repeat(np.arange(num_parts), num_choices)
    kept = undominated(owner, setup.reshape(len(setup), len(owner)), value.ravel())
    kept = kept[np.argsort(owner[kept], kind="stable")]
    count = np.bincount(owner[kept], minlength=num_parts)
    first = np.cumsum(count) - count
    column = np.minimum(np.arange(count.max()), count[:, None] - 1)
    option = kept[first[:, None] + column] % num_choices
    cost = np.take_along_axis(setup, option[None], axis=2)
    row = np.zeros(num_parts, dtype=np.int64)
    admitted = np.full(len(setup), np.inf)
    for q, limit in enumerate(problem.setup_admitted):
        if cost[q].max(axis=1).sum() > limit:
            smallest = cost[q].min(axis=1).sum(keepdims=True)
            admitted[q] = reachable_limits(row, cost[q], smallest, np.array([limit]))[0]
    outer = Knapsacks(np.arange(num_parts), row[:1], np.array([num_parts]), cost, admitted[None])
    (batch,) = scaled_batches(outer)
    if not batch.possible.all():
        return None, float("-inf")
    worth = np.take_along_axis(value, option, axis=1)
    base = worth.min(axis=1, keepdims=True)
    found = solve_unequal_costs(batch, worth - base, max_states=MAX_STATES, deadline=deadline)
    operation = found.operation[0, :num_parts]
    bound = float(found.bound[0] + base.sum())
    if not np.isfinite(found.value[0]):
        return None, bound
    return option[np.arange(num_parts), operation], bound
