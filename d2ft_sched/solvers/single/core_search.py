"""Exact search over the core of knapsacks with unequal costs, for any number of resources.

Pisinger's core idea for the multiple-choice knapsack (EJOR 83(2), 1995), for several resources and
many knapsacks at once. At the relaxation's prices each item has a best operation; every other one
has a loss. A choice with losses of more than bound - incumbent cannot be better, so most items are
fixed at once. The rest (the core) is gone through by rising loss per cost; a state is a choice for
the items so far with the best operation for all others. States are dropped if their bound does not
beat the incumbent, or if another of their knapsack costs no more and is worth no less.
"""

import time
from dataclasses import dataclass

import numpy as np

from d2ft_sched.solvers.single.dominance import undominated
from d2ft_sched.solvers.single.greedy_choice import at_operation, priced
from d2ft_sched.solvers.single.value_grid import value_step

PROOF_TOLERANCE = 1e-12
"""A state must promise this much more than the incumbent, relative to the values at the prices."""

PART_OF_STEP = 0.98
"""Where values lie on a grid a better choice is better by a step; less than that is no promise."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Per knapsack.

    Attributes:
        operation: best choice, int8 ``[num_knapsacks, width]``; as given where none was found.
        value: its value, float ``[num_knapsacks]``; -inf where none is known.
        bound: no choice is worth more, float ``[num_knapsacks]``; -inf where none exists.
        complete: whether nothing was left out of the search that promised more than
            `PROOF_TOLERANCE`, bool ``[num_knapsacks]``.
    """

    operation: np.ndarray
    value: np.ndarray
    bound: np.ndarray
    complete: np.ndarray


@dataclass(frozen=True, eq=False)
class _Core:
    """Items of the core in the order of the search; per knapsack, padded to `num_steps`.

    `loss`, `gain` and `extra` (value and cost against the best operation) are of shape
    ``[num_operations, num_knapsacks, num_steps]`` (`extra` with resources in front); the loss of
    the best operation itself and of the padding is inf. `ahead` is the smallest loss of the items
    from a step on, `down` and `up` the smallest loss per cost saved and spent of a resource.
    """

    item: np.ndarray
    loss: np.ndarray
    gain: np.ndarray
    extra: np.ndarray
    ahead: np.ndarray
    down: np.ndarray
    up: np.ndarray

    @property
    def num_steps(self) -> int:
        return int(self.item.shape[1])


@dataclass(frozen=True, eq=False)
class _States:
    """States of all knapsacks side by side; `parent` counts among those of the step before."""

    knapsack: np.ndarray
    spent: np.ndarray
    value: np.ndarray
    loss: np.ndarray
    parent: np.ndarray
    operation: np.ndarray

    def __len__(self) -> int:
        return len(self.knapsack)

    def take(self, chosen: np.ndarray | slice) -> "_States":
        return _States(
            self.knapsack[chosen],
            self.spent[:, chosen],
            self.value[chosen],
            self.loss[chosen],
            self.parent[chosen],
            self.operation[chosen],
        )


def search_core(
    value: np.ndarray,
    cost: np.ndarray,
    allowed: np.ndarray,
    price: np.ndarray,
    start: np.ndarray,
    start_fits: np.ndarray,
    *,
    max_states: int,
    deadline: float,
) -> SearchResult:
    """Search every knapsack for a better choice than `start`.

    Args:
        value: float ``[num_operations, num_knapsacks, width]``, with at most 127 operations.
        cost: float ``[num_resources, num_operations, num_knapsacks, width]``; each resource's limit
            is 1.
        allowed: bool ``[num_operations, num_knapsacks, width]``.
        price: of each resource, float >= 0 ``[num_resources, num_knapsacks]``.
        start: operations, int ``[num_knapsacks, width]``.
        start_fits: whether they are a feasible choice, bool ``[num_knapsacks]``.
        max_states: states kept per knapsack; where there are more, those of the best bounds, and
            the result's bound allows for the others.
        deadline: `time.perf_counter` value at which the search stops.
    """
    num_knapsacks = value.shape[1]
    reduced = np.where(allowed, value - priced(cost, price), -np.inf)
    best = reduced.argmax(axis=0)
    top = at_operation(reduced, best)
    bound = top.sum(axis=1) + price.sum(axis=0)
    rounding = PROOF_TOLERANCE * np.abs(at_operation(value, best)).sum(axis=1)
    grid_step = PART_OF_STEP * value_step(value, allowed)
    tolerance = np.maximum(rounding, grid_step)
    unseen = np.where(grid_step >= rounding, 0.0, rounding)
    incumbent = np.where(start_fits, at_operation(value, start).sum(axis=1), -np.inf)
    core = _core(value, cost, top - reduced, best, bound - incumbent - tolerance)

    base_value = at_operation(value, best).sum(axis=1)
    base_spent = (
        np.stack([at_operation(c, best).sum(axis=1) for c in cost])
        if len(cost)
        else np.zeros((0, num_knapsacks))
    )
    states = _States(
        np.arange(num_knapsacks),
        base_spent,
        base_value,
        np.zeros(num_knapsacks),
        np.zeros(num_knapsacks, dtype=np.int64),
        np.zeros(num_knapsacks, dtype=np.int8),
    )
    found_step = np.full(num_knapsacks, -1)
    found_parent = np.zeros(num_knapsacks, dtype=np.int64)
    found_operation = np.zeros(num_knapsacks, dtype=np.int8)
    dropped = np.full(num_knapsacks, np.inf)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(core.num_steps + 1):
        winner = _winners(states, incumbent)
        k = states.knapsack[winner]
        incumbent[k] = states.value[winner]
        found_step[k] = step
        found_parent[k], found_operation[k] = states.parent[winner], states.operation[winner]

        gap = bound - incumbent - tolerance
        least_loss = states.loss + _penalty(states, core, price, step)
        promising = least_loss < gap[states.knapsack]
        promising &= states.loss + core.ahead[states.knapsack, step] < gap[states.knapsack]
        states, least_loss = states.take(promising), least_loss[promising]
        kept = undominated(states.knapsack, states.spent, states.value)
        states, least_loss = states.take(kept), least_loss[kept]
        limit = max_states if time.perf_counter() < deadline else 0
        states = states.take(_best_bounded(states.knapsack, least_loss, limit, dropped))
        if not len(states):
            break
        history.append((states.parent, states.operation))
        states = _expanded(states, core, step, gap)

    operation = start.astype(np.int8)
    improved = np.flatnonzero(found_step >= 0)
    operation[improved] = best[improved]
    _trace_back(operation, core, history, found_step, found_parent, found_operation)
    bound = np.maximum(incumbent + unseen, bound - dropped)
    return SearchResult(operation, incumbent, bound, np.isinf(dropped))


def _core(
    value: np.ndarray, cost: np.ndarray, loss: np.ndarray, best: np.ndarray, gap: np.ndarray
) -> _Core:
    loss = np.where(np.arange(len(loss))[:, None, None] == best, np.inf, loss)
    gain = value - at_operation(value, best)
    extra = np.stack([c - at_operation(c, best) for c in cost]) if len(cost) else cost
    size = np.abs(extra).max(axis=0, initial=0.0)
    rate = (loss / np.maximum(size, 1e-12)).min(axis=0)
    inside = loss.min(axis=0) < gap[:, None]
    order = np.argsort(np.where(inside, rate, np.inf), axis=1, kind="stable")
    num_inside = inside.sum(axis=1)
    num_steps = int(num_inside.max(initial=0))
    order = order[:, :num_steps]
    padding = np.arange(num_steps) >= num_inside[:, None]

    def arranged(table: np.ndarray) -> np.ndarray:
        return np.stack([np.take_along_axis(t, order, axis=1) for t in table])

    loss, gain = np.where(padding, np.inf, arranged(loss)), arranged(gain)
    extra = np.stack([arranged(e) for e in extra]) if len(extra) else extra[..., :num_steps]
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(extra < 0, loss / -extra, np.inf).min(axis=1)
        up = np.where(extra > 0, loss / extra, np.inf).min(axis=1)
    return _Core(
        order,
        loss,
        gain,
        extra,
        _smallest_ahead(loss.min(axis=0)),
        *map(_smallest_ahead, (down, up)),
    )


def _smallest_ahead(table: np.ndarray) -> np.ndarray:
    """Minimum over this and all later columns; one more column of inf."""
    end = np.full((*table.shape[:-1], 1), np.inf)
    backwards = np.minimum.accumulate(table[..., ::-1], axis=-1)
    return np.concatenate([backwards[..., ::-1], end], axis=-1)


def _winners(states: _States, incumbent: np.ndarray) -> np.ndarray:
    """Indices of the best feasible state of each knapsack that beats its incumbent."""
    feasible = np.flatnonzero((states.spent <= 1).all(axis=0))
    better = feasible[states.value[feasible] > incumbent[states.knapsack[feasible]]]
    order = better[np.lexsort((states.value[better], states.knapsack[better]))]
    owner = states.knapsack[order]
    return order[np.append(owner[1:] != owner[:-1], True)[: len(order)]]


def _penalty(states: _States, core: _Core, price: np.ndarray, step: int) -> np.ndarray:
    """Loss that a state cannot avoid: relieving what is over, or leaving capacity unused."""
    penalty = np.zeros(len(states))
    k = states.knapsack
    for r, spent in enumerate(states.spent):
        left = 1 - spent
        unused = np.minimum(price[r], core.up[r, :, step])[k] * np.maximum(left, 0.0)
        down = core.down[r, :, step][k]
        with np.errstate(invalid="ignore"):
            over = np.where(left < 0, -left * down, 0.0)
        np.maximum(penalty, np.maximum(unused, over), out=penalty)
    return penalty


def _best_bounded(
    knapsack: np.ndarray, least_loss: np.ndarray, limit: int, dropped: np.ndarray
) -> np.ndarray | slice:
    """At most `limit` states per knapsack, as an index.

    The smallest loss of what is not kept goes into `dropped`, float ``[num_knapsacks]``.
    """
    count = np.bincount(knapsack)
    if count.max(initial=0) <= limit:
        return slice(None)
    order = np.lexsort((least_loss, knapsack))
    position = np.arange(len(order)) - (np.cumsum(count) - count)[knapsack[order]]
    lost = order[position >= limit]
    np.minimum.at(dropped, knapsack[lost], least_loss[lost])
    return np.sort(order[position < limit])


def _expanded(states: _States, core: _Core, step: int, gap: np.ndarray) -> _States:
    """The states with every operation of the step's item that their gap allows."""
    k = states.knapsack
    index = np.arange(len(states))
    parts = [(index, np.full(len(states), -1, dtype=np.int8))]
    for o in range(len(core.loss)):
        affordable = np.flatnonzero(states.loss + core.loss[o, :, step][k] < gap[k])
        parts.append((affordable, np.full(len(affordable), o, dtype=np.int8)))
    parent = np.concatenate([p for p, _ in parts])
    operation = np.concatenate([o for _, o in parts])
    child = states.take(parent)
    changed = operation >= 0
    choice = (operation[changed], child.knapsack[changed], step)
    child.spent[:, changed] += core.extra[:, *choice]
    child.value[changed] += core.gain[choice]
    child.loss[changed] += core.loss[choice]
    return _States(child.knapsack, child.spent, child.value, child.loss, parent, operation)


def _trace_back(
    operation: np.ndarray,
    core: _Core,
    history: list[tuple[np.ndarray, np.ndarray]],
    found_step: np.ndarray,
    found_parent: np.ndarray,
    found_operation: np.ndarray,
) -> None:
    """Write the operations along the way to each found state, in place."""
    parent, choice = found_parent.copy(), found_operation.copy()
    for step in range(int(found_step.max(initial=0)), 0, -1):
        on_way = np.flatnonzero(found_step >= step)
        changed = on_way[choice[on_way] >= 0]
        operation[changed, core.item[changed, step - 1]] = choice[changed]
        before_parent, before_choice = history[step - 1]
        choice[on_way], parent[on_way] = (
            before_choice[parent[on_way]],
            before_parent[parent[on_way]],
        )
