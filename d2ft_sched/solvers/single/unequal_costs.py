"""Knapsacks with unequal costs: relaxation, greedy start, core search; with a bound in any case."""

import time
from dataclasses import dataclass

import numpy as np

from d2ft_sched.solvers.single.core_search import SearchResult, search_core
from d2ft_sched.solvers.single.greedy_choice import at_operation, greedy_choice, priced
from d2ft_sched.solvers.single.linear_relaxation import resource_prices
from d2ft_sched.solvers.single.scaled_batch import ScaledBatch

FIRST_STATES = 256
"""States per knapsack in the first pass, which settles most knapsacks and betters the rest."""

TIE_BREAK = 1e-4
"""Relative change of values that breaks ties."""

MAX_STATES_TOGETHER = 1_000_000
"""States of all knapsacks that are searched together in the second pass: a bound on memory."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A batch with its values and its relaxation's prices."""

    batch: ScaledBatch
    value: np.ndarray
    price: np.ndarray

    def take(self, chosen: np.ndarray) -> "_Prepared":
        return _Prepared(self.batch.take(chosen), self.value[:, chosen], self.price[:, chosen])

    def search(
        self, start: np.ndarray, fits: np.ndarray, max_states: int, deadline: float
    ) -> SearchResult:
        return search_core(
            self.value,
            self.batch.cost,
            self.batch.allowed,
            self.price,
            start,
            fits,
            max_states=max_states,
            deadline=deadline,
        )


def solve_unequal_costs(
    batch: ScaledBatch, value: np.ndarray, *, max_states: int, deadline: float
) -> SearchResult:
    """Best choice found and bound of every knapsack; equal, but for rounding, where proven.

    Args:
        batch: knapsacks, all of them `possible`.
        value: float ``[num_items_of_problem, num_operations]``.
        max_states: most states per knapsack in the second pass.
        deadline: `time.perf_counter` value at which the search stops.
    """
    padded = batch.values(value)
    prepared = _Prepared(batch, padded, resource_prices(padded, batch.cost, batch.allowed))
    start, fits = _start(prepared)
    result = prepared.search(start, fits, min(FIRST_STATES, max_states), deadline)
    unproven = np.flatnonzero(~result.complete)
    if max_states <= FIRST_STATES or not len(unproven):
        return result
    operation, found, bound = result.operation, result.value.copy(), result.bound.copy()
    complete = result.complete.copy()
    together = max(1, MAX_STATES_TOGETHER // max_states)
    for first in range(0, len(unproven), together):
        if time.perf_counter() >= deadline:
            break
        part = unproven[first : first + together]
        again = prepared.take(part).search(
            operation[part], np.isfinite(found[part]), max_states, deadline
        )
        operation[part] = again.operation
        found[part] = again.value
        bound[part] = np.minimum(bound[part], again.bound)
        complete[part] = again.complete
    return SearchResult(operation, found, bound, complete)


def _start(prepared: _Prepared) -> tuple[np.ndarray, np.ndarray]:
    """The greedy choice; where ties made it poor, one more with the ties broken.

    At prices of a unique basic optimum at most as many items as there are resources are not
    decided, so a larger gap than their values means that many operations tie at the prices.
    """
    cost, allowed, value = prepared.batch.cost, prepared.batch.allowed, prepared.value
    start, fits = greedy_choice(value, cost, allowed, prepared.price)
    found = np.where(fits, at_operation(value, start).sum(axis=1), -np.inf)
    reduced = np.where(allowed, value - priced(cost, prepared.price), -np.inf)
    bound = reduced.max(axis=0).sum(axis=1) + prepared.price.sum(axis=0)
    undecided = len(cost) * np.where(allowed, np.abs(value), 0.0).max(axis=(0, 2))
    poor = np.flatnonzero(bound - found > undecided)
    if len(poor):
        noise = np.random.default_rng(0).uniform(1, 1 + TIE_BREAK, value[:, poor].shape)
        cost, allowed, value = cost[:, :, poor], allowed[:, poor], value[:, poor]
        perturbed = value * noise
        price = resource_prices(perturbed, cost, allowed)
        again, again_fits = greedy_choice(perturbed, cost, allowed, price)
        better = again_fits & (at_operation(value, again).sum(axis=1) > found[poor])
        start[poor[better]] = again[better]
        fits[poor[better]] = True
    return start, fits
