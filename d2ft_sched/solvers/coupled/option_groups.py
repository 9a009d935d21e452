"""Exact choice of options for groups of few knapsacks that share narrow rows.

A row such as a link of eight devices leaves a part of its limit unused that the prices do not see.
Given the prices of the wide rows, the knapsacks joined by narrow rows form small problems of their
own, and the core search solves them over the options collected.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from d2ft_sched.solvers.coupled.count_options import CountOptions
from d2ft_sched.solvers.coupled.knapsack_options import Options
from d2ft_sched.solvers.coupled.shared_rows import SharedRows
from d2ft_sched.solvers.single.core_search import search_core
from d2ft_sched.solvers.single.greedy_choice import greedy_choice

MAX_KNAPSACKS = 32
"""Knapsacks of a narrow row, and of a group."""
MAX_ROWS = 4
"""Narrow rows of a group."""
NUM_OPTIONS = 32
"""Options per knapsack that are looked at, the best at the prices."""
MAX_STATES = 512
GROUPS_TOGETHER = 2048


@dataclass(frozen=True, eq=False)
class OptionGroups:
    """Groups with equal numbers of knapsacks and rows.

    Attributes:
        knapsack: int ``[num_groups, width]``.
        pair: (knapsack, row) pair of each knapsack in each of its group's rows, int
            ``[num_groups, width, num_rows]``; -1 where the knapsack has no part in it.
        row: int ``[num_groups, num_rows]``.
    """

    knapsack: np.ndarray
    pair: np.ndarray
    row: np.ndarray


def is_narrow(rows: SharedRows) -> np.ndarray:
    """Rows of few knapsacks, bool ``[num_rows]``."""
    return np.bincount(rows.pair_row, minlength=rows.num_rows) <= MAX_KNAPSACKS


def option_groups(rows: SharedRows, num_knapsacks: int) -> list[OptionGroups]:
    """The knapsacks that narrow rows join, where groups stay small."""
    pairs = np.flatnonzero(is_narrow(rows)[rows.pair_row])
    owner, row = rows.pair_knapsack[pairs], rows.pair_row[pairs]
    size = num_knapsacks + rows.num_rows
    graph = coo_array((np.ones(len(pairs)), (owner, num_knapsacks + row)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    knapsacks_of = np.bincount(label[:num_knapsacks], minlength=size)
    rows_of = np.bincount(label[num_knapsacks:], minlength=size)
    fitting = (knapsacks_of <= MAX_KNAPSACKS) & (rows_of >= 1) & (rows_of <= MAX_ROWS)
    fitting &= knapsacks_of >= 1
    groups = []
    for width, height in np.unique(np.stack([knapsacks_of, rows_of])[:, fitting], axis=1).T:
        chosen = np.flatnonzero(fitting & (knapsacks_of == width) & (rows_of == height))
        knapsack = _members(label[:num_knapsacks], chosen, width)
        group_row = _members(label[num_knapsacks:], chosen, height)
        place = np.full(size, -1)
        place[knapsack] = np.arange(width)
        place[num_knapsacks + group_row] = np.arange(height)
        number = np.full(size, -1)
        number[chosen] = np.arange(len(chosen))
        mine = number[label[owner]] >= 0
        pair = np.full((len(chosen), width, height), -1)
        pair[number[label[owner[mine]]], place[owner[mine]], place[num_knapsacks + row[mine]]] = (
            pairs[mine]
        )
        groups.append(OptionGroups(knapsack, pair, group_row))
    return groups


def _members(label: np.ndarray, chosen: np.ndarray, size: int) -> np.ndarray:
    """Indices with each chosen label, int ``[len(chosen), size]``."""
    order = np.argsort(label, kind="stable")
    return order[np.searchsorted(label[order], chosen)[:, None] + np.arange(size)]


@dataclass(frozen=True, eq=False)
class GroupChoice:
    """Options taken, and what they prove.

    Attributes:
        taken: option of each knapsack, int ``[num_knapsacks]``.
        bound: no choice of the options that keeps the narrow rows is worth more, less what it pays
            for its usage of the other rows.
    """

    taken: np.ndarray
    bound: float


def best_in_groups(
    options: Options | CountOptions,
    groups: list[OptionGroups],
    price: np.ndarray,
    deadline: float,
) -> GroupChoice:
    """Options within the narrow rows, of most value at the prices of the other rows.

    Args:
        options: to take from.
        groups: from `option_groups`; a knapsack outside takes its best option at the prices.
        price: float >= 0 ``[num_rows]``.
        deadline: `time.perf_counter` value after which the remaining groups are left at that, too.
    """
    reduced = options.reduced(price)
    taken = reduced.argmax(axis=0)
    bound = float(reduced.max(axis=0).sum())
    for group in _parts(groups):
        if time.perf_counter() < deadline:
            lowered = _solve_part(options, group, taken, price, reduced, deadline)
            bound += float((price[group.row] * options.rows.limit[group.row]).sum() - lowered)
        else:
            bound += float((price[group.row] * options.rows.limit[group.row]).sum())
    return GroupChoice(taken, bound)


def _parts(groups: list[OptionGroups]) -> Iterator[OptionGroups]:
    for group in groups:
        for first in range(0, len(group.row), GROUPS_TOGETHER):
            part = slice(first, first + GROUPS_TOGETHER)
            yield OptionGroups(group.knapsack[part], group.pair[part], group.row[part])


def _solve_part(
    options: Options | CountOptions,
    group: OptionGroups,
    taken: np.ndarray,
    price: np.ndarray,
    reduced: np.ndarray,
    deadline: float,
) -> float:
    """Write the choice of some groups into `taken`; return by how much it lowers the bound."""
    mine = reduced[:, group.knapsack]
    num_options = min(NUM_OPTIONS, len(mine))
    ranked = np.argpartition(-mine, num_options - 1, axis=0)[:num_options]
    ranked_value = np.take_along_axis(mine, ranked, axis=0)
    ranked = np.take_along_axis(ranked, np.argsort(-ranked_value, axis=0), axis=0)
    loss = mine.max(axis=0) - np.take_along_axis(mine, ranked, axis=0)
    least_dropped = loss[-1].min(axis=1) if num_options < len(mine) else np.inf
    usage = np.where(group.pair >= 0, options.usage_at(ranked[..., None], group.pair), 0.0)
    usage = np.moveaxis(usage, 3, 0)
    row_price = price[group.row].T
    value = np.take_along_axis(mine, ranked, axis=0) + np.einsum("rogw,rg->ogw", usage, row_price)
    allowed = np.isfinite(value)
    value = np.where(allowed, value, 0.0)
    allowed &= _distinct(value, usage)
    smallest = np.where(allowed, usage, np.inf).min(axis=1)
    limit = options.rows.limit[group.row].T
    left = limit - smallest.sum(axis=2)
    possible = (left > 0).all(axis=0)
    cost = (usage - smallest[:, None]) / np.where(left > 0, left, np.inf)[:, None, :, None]
    allowed &= (cost <= 1).all(axis=0)
    possible &= allowed.any(axis=0).all(axis=1)
    allowed |= ~possible[:, None]
    row_price = row_price * np.maximum(left, 0.0)
    start, fits = greedy_choice(value, cost, allowed, row_price)
    result = search_core(
        value,
        cost,
        allowed,
        row_price,
        start,
        fits,
        max_states=MAX_STATES,
        deadline=deadline,
    )
    found = possible & np.isfinite(result.value)
    chosen = np.take_along_axis(ranked, result.operation[None].astype(np.intp), axis=0)[0]
    taken[group.knapsack[found]] = chosen[found]
    priced = mine.max(axis=0).sum(axis=1) + (price[group.row].T * limit).sum(axis=0)
    bound = np.where(possible, np.maximum(result.bound, priced - least_dropped), priced)
    return float((priced - np.minimum(bound, priced)).sum())


def _distinct(value: np.ndarray, usage: np.ndarray) -> np.ndarray:
    """Options that no earlier one equals in value and usage, bool like `value`."""
    distinct = np.ones(value.shape, dtype=bool)
    for j in range(1, len(value)):
        same = np.abs(value[:j] - value[j]) <= 1e-12 * np.abs(value[j])
        for u in usage:
            same &= np.abs(u[:j] - u[j]) <= 1e-12
        distinct[j] = ~same.any(axis=0)
    return distinct
