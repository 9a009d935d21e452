"""Coupled problems: prices on the shared constraints over exact knapsacks, and a true gap."""

import time
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.problem.problem import Problem
from d2ft_sched.problem.shared import Coverage
from d2ft_sched.problem.solution import (
    OPTIMALITY_TOLERANCE,
    Solution,
    Status,
    checked_solution,
    no_schedule,
    relative_gap,
)
from d2ft_sched.schedule.operations import NUM_OPERATIONS
from d2ft_sched.solvers.coupled.count_options import count_options, operations_of_counts
from d2ft_sched.solvers.coupled.covering import covering
from d2ft_sched.solvers.coupled.item_moves import filled
from d2ft_sched.solvers.coupled.knapsack_options import Options, joined, options
from d2ft_sched.solvers.coupled.option_groups import best_in_groups, option_groups
from d2ft_sched.solvers.coupled.option_prices import smoothed_prices
from d2ft_sched.solvers.coupled.repair import excess, repaired_and_filled
from d2ft_sched.solvers.coupled.shared_rows import SharedRows, shared_rows
from d2ft_sched.solvers.gains import on_gains
from d2ft_sched.solvers.single.equal_costs import near_best_equal_costs
from d2ft_sched.solvers.single.priced_knapsacks import PricedKnapsacks, priced_knapsacks

RUN_ITEMS = 32_768
SEARCH_STATES = 256
"""States per knapsack while prices are looked for."""

FIRST_PRICES = (0.1, 0.3, 0.6, 1.0, 2.0, 5.0)
"""Prices of the first options, in units of a row's value per usage."""

FIRST_RADIUS, WIDENING, NARROWING, LAST_RADIUS = 0.5, 1.5, 0.6, 0.01
"""How far prices move in a round, in the same units: more after a success, less after a failure."""

FIRST_TEMPERATURE, COOLING, LAST_TEMPERATURE = 2e-3, 0.7, 1e-5
"""Smoothing of the prices' dual, in units of a knapsack's mean value."""

SETTLED = 2e-5
"""Relative improvement of the bound over `PATIENCE` rounds at which the prices have settled."""
PATIENCE = 6

NEAR_PRICES = (1.0, 0.8, 1.25)
NEAR_CHOICES = 8
"""The last options: the best choices of different num_full, at these multiples of the prices."""

WIDE_ROUNDS = 5
WIDE_STEP = 0.02
"""First relative change of a wide row's price towards using up its limit."""


@on_gains
def solve_lagrangian(
    problem: Problem,
    *,
    time_limit_s: float | None = None,
    seed: int = 0,
    max_rounds: int = 60,
) -> Solution:
    """Lagrangian decomposition: each round solves all knapsacks at given prices of shared rows.

    The dual at any prices bounds the optimum. Prices come from the options collected so far
    (`smoothed_prices`); the schedule is put together from these options, first at the prices, then
    exactly within groups of knapsacks that share narrow rows, then repaired and filled. The gap is
    the true one between that schedule and the best dual. Values are divided by the largest of them
    on the way, so that their unit does not matter. Deterministic.

    Args:
        problem: with shared constraints.
        time_limit_s: ends the rounds; what follows them takes a fraction of that.
        seed: not used.
        max_rounds: of prices.
    """
    begin = time.perf_counter()
    deadline = float("inf") if time_limit_s is None else begin + time_limit_s
    rows = shared_rows(problem)
    knapsacks = priced_knapsacks(problem, RUN_ITEMS)
    largest = float(np.abs(problem.value).max()) or 1.0
    build_s = time.perf_counter() - begin
    search = _Search(replace(problem, value=problem.value / largest), rows, knapsacks, deadline)
    if rows.impossible or not knapsacks.possible:
        search.bound = float("-inf")
    else:
        search.run(max_rounds)
        search.bound *= largest
    return _conclude(problem, search, build_s, time.perf_counter() - begin - build_s)


def _conclude(problem: Problem, search: "_Search", build_s: float, solve_s: float) -> Solution:
    smallest = problem.value.min(axis=2).sum()
    infeasible = search.bound < smallest - 1e-6 * np.abs(problem.value).max(axis=2).sum()
    method = (
        f"Lagrangian decomposition: {search.rows.num_rows} prices, {search.num_rounds} rounds "
        f"over the exact knapsacks"
    )
    if search.best is None:
        status = Status.INFEASIBLE if infeasible else Status.TIME_LIMIT
        return no_schedule(
            status,
            upper_bound=float("-inf") if infeasible else search.bound,
            build_s=build_s,
            solve_s=solve_s,
            solver="lagrangian",
            method=method + ("" if infeasible else "; found no schedule that keeps all"),
        )
    return checked_solution(
        problem,
        search.best.reshape(problem.num_subnets, problem.num_microbatches),
        upper_bound=search.bound,
        status=Status.FEASIBLE if time.perf_counter() < search.deadline else Status.TIME_LIMIT,
        build_s=build_s,
        solve_s=solve_s,
        solver="lagrangian",
        method=method,
    )


@dataclass
class _Search:
    """State of a decomposition: options, bound and best schedule so far."""

    problem: Problem
    rows: SharedRows
    knapsacks: PricedKnapsacks
    deadline: float
    bound: float = float("inf")
    best: np.ndarray | None = None
    best_objective: float = float("-inf")
    num_rounds: int = 0
    options: Options | None = None

    def __post_init__(self) -> None:
        value = self.problem.value.reshape(-1, NUM_OPERATIONS)
        self.knapsack = self.problem.knapsack.ravel()
        self.value = value
        span = value.max(axis=1) - value.min(axis=1)
        self.span = float(span.sum())
        self.priced_value = np.where(self.rows.allowed, value, value - 4 * self.span - 1)

    def run(self, max_rounds: int) -> None:
        free = np.zeros(self.rows.num_rows)
        self.query(free)
        if self.best is not None or not np.isfinite(self.bound):
            return
        self.offer_covering()
        unit = self._price_unit()
        best, best_bound = free, self.bound
        for factor in FIRST_PRICES:
            bound = self.query(factor * unit)
            if bound < best_bound:
                best, best_bound = factor * unit, bound
        temperature, radius = FIRST_TEMPERATURE, FIRST_RADIUS
        bounds = [self.bound]
        while self.num_rounds < max_rounds and time.perf_counter() < self.deadline:
            assert self.options is not None
            mean = (self.span or 1.0) / self.problem.num_knapsacks
            price = smoothed_prices(self.options, best, radius * unit, temperature * mean)
            bound = self.query(price)
            if bound < best_bound:
                best, best_bound = price, bound
                radius *= WIDENING
            else:
                radius = max(NARROWING * radius, LAST_RADIUS)
            temperature = max(COOLING * temperature, LAST_TEMPERATURE)
            bounds.append(self.bound)
            settled = SETTLED * abs(self.bound)
            if len(bounds) > PATIENCE and bounds[-1 - PATIENCE] - self.bound <= settled:
                break
            if self.is_proven():
                return
        self.assemble(best)

    def query(self, price: np.ndarray) -> float:
        """Solve all knapsacks at the prices; the dual bound there."""
        self.num_rounds += 1
        value = self.priced_value - self.rows.charge(price)
        operation, bound = self.knapsacks.best(
            value, max_states=SEARCH_STATES, deadline=self.deadline
        )
        bound += float(price @ self.rows.limit)
        self.bound = min(self.bound, bound)
        self.add(operation[None])
        self.offer(operation)
        return bound

    def add(self, operation: np.ndarray) -> None:
        """Collect schedules, int8 ``[n, num_items]``, as options."""
        new = options(operation, self.value, self.knapsack, self.problem.num_knapsacks, self.rows)
        self.options = new if self.options is None else joined(self.options, new)

    def is_proven(self) -> bool:
        """Whether the best schedule meets the bound."""
        return relative_gap(self.best_objective, self.bound) <= OPTIMALITY_TOLERANCE

    def offer(self, operation: np.ndarray) -> None:
        """Keep the schedule if it is feasible and better than the best."""
        objective = float(self.value[np.arange(len(operation)), operation].sum())
        if objective > self.best_objective:
            shape = (self.problem.num_subnets, self.problem.num_microbatches)
            if self.problem.violation(operation.reshape(shape)) is None:
                self.best, self.best_objective = operation, objective

    def offer_covering(self) -> None:
        """Begin with the cheapest operations that keep a coverage, and what fits beside them."""
        for constraint in self.problem.shared:
            if isinstance(constraint, Coverage):
                found, _ = covering(self.problem, constraint, self.problem.capacity[None])
                operation = found[0].ravel()
                self.offer(operation)
                if self.best is operation:
                    self.offer(filled(self.problem, self.rows, found[0].ravel()))

    def add_near_options(self, price: np.ndarray) -> None:
        """Choices near the best ones, of equal-cost knapsacks."""
        if not self.knapsacks.equal:
            return
        assert self.options is not None
        base = self.options.operation[-1]
        for factor in NEAR_PRICES:
            value = self.priced_value - self.rows.charge(factor * price)
            operation = np.repeat(base[None], NEAR_CHOICES, axis=0)
            for batch in self.knapsacks.equal:
                near = near_best_equal_costs(batch, value, NEAR_CHOICES)
                operation[:, batch.item[batch.present]] = near[:, batch.present]
            self.add(operation)

    def assemble(self, price: np.ndarray) -> None:
        """Put schedules together from the options, and better the wide rows' prices on the way."""
        assert self.options is not None
        groups = option_groups(self.rows, self.problem.num_knapsacks)
        counts = count_options(self.problem, self.rows, self.knapsacks) if groups else None
        if counts is None:
            self.add_near_options(price)
        outside = np.ones(self.rows.num_rows, dtype=bool)
        for group in groups:
            outside[group.row] = False
        step = np.full(len(price), WIDE_STEP)
        last_sign = np.zeros(len(price))
        for _ in range(WIDE_ROUNDS if groups and outside.any() else 1):
            if counts is None:
                taken = best_in_groups(self.options, groups, price, self.deadline).taken
            else:
                choice = best_in_groups(counts, groups, price, self.deadline)
                paid = float(price[outside] @ self.rows.limit[outside])
                self.bound = min(self.bound, choice.bound + paid)
                self.add(
                    operations_of_counts(counts, self.knapsacks, self.problem, choice.taken)[None]
                )
                taken = np.full(self.problem.num_knapsacks, len(self.options) - 1)
            sign = np.sign(excess(self.options, taken))
            taken = repaired_and_filled(self.options, taken, price)
            operation = self.options.operations_of(taken, self.knapsack)
            self.offer(operation)
            if self.best is not None and (operation == self.best).all():
                self.offer(filled(self.problem, self.rows, operation))
            if self.is_proven() or time.perf_counter() > self.deadline:
                break
            step = np.where(sign == -last_sign, 0.5 * step, step)
            price = np.where(outside, price * (1 + sign * step), price)
            last_sign = sign

    def _price_unit(self) -> np.ndarray:
        """Value per usage of each row, float ``[num_rows]``."""
        span = self.value.max(axis=1) - self.value.min(axis=1)
        worth, used = np.zeros(self.rows.num_rows), np.zeros(self.rows.num_rows)
        for row, weight in zip(self.rows.row, self.rows.weight, strict=True):
            counted = row >= 0
            width = weight.max(axis=1) - weight.min(axis=1)
            worth += np.bincount(row[counted], span[counted], self.rows.num_rows)
            used += np.bincount(row[counted], width[counted], self.rows.num_rows)
        return np.divide(worth, used, out=np.zeros_like(worth), where=used > 0)
