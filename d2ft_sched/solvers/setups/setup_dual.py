"""The dual of a problem with setups: prices on every row take all groups and items apart.

At given prices each item of a group that trains takes the best of SHORTCUT, FORWARD_ONLY and FULL,
of one that rests the best of SHORTCUT, FORWARD_ONLY and REST, and each group the better of the
two. Their sum and what the limits are worth bound the optimum. With each maximum replaced by
T log sum exp(. / T) it is smooth, and a quasi-Newton method finds its minimum; T falls in steps.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from d2ft_sched.problem.setups import SetupProblem
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.solvers.setups.setup_rows import NUM_CHOICES, SetupRows

TRAINING = (Operation.SHORTCUT, Operation.FORWARD_ONLY, Operation.FULL)
RESTING = (Operation.SHORTCUT, Operation.FORWARD_ONLY, Operation.REST)

TEMPERATURES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Smoothing T of an item's choice, in units of the mean span of an item's values."""

MAX_ITERATIONS = 30
"""Of the quasi-Newton method, at each temperature."""

ROUNDING = 1e-14
"""Of sums, relative to their terms."""


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual at some prices.

    Attributes:
        price: of each row in the problem's unit of value, float >= 0 ``[num_rows]``.
        bound: no schedule is worth more.
        advantage: of training over resting at these prices, float ``[num_groups]``; infinite for a
            group that can but do one of them.
    """

    price: np.ndarray
    bound: float
    advantage: np.ndarray


class SetupDual:
    """The dual function of a problem.

    Values are gains over SHORTCUT, divided by the mean span of an item; bounds are in the problem's
    own unit.
    """

    def __init__(self, problem: SetupProblem, rows: SetupRows) -> None:
        value = problem.value.reshape(-1, NUM_CHOICES).T
        allowed = rows.allowed
        self.rows = rows
        self.group = np.repeat(problem.group, problem.problem.num_microbatches)
        self.num_groups = problem.num_groups
        base = np.where(allowed[Operation.SHORTCUT], value[Operation.SHORTCUT], 0.0)
        gain = np.where(allowed, value - base, -np.inf)
        span = np.where(allowed, gain, 0.0)
        self.scale = float((span.max(axis=0) - span.min(axis=0)).mean()) or 1.0
        self.gain = gain / self.scale
        self.offset = float(base.sum())
        self.base_magnitude = float(np.abs(base).sum())
        self.transposed = rows.matrix.T.tocsr()
        size = np.bincount(self.group, minlength=self.num_groups)
        self.group_smoothing = np.sqrt(np.maximum(size, 1.0))
        self.barred = np.where(rows.may_train, 0.0, -np.inf)

    def at(self, price: np.ndarray) -> Dual:
        """The dual at given prices."""
        reduced, setup = self._reduced(price)
        train = reduced[list(TRAINING)].max(axis=0)
        rest = reduced[list(RESTING)].max(axis=0)
        train, rest = self._by_group(train) - setup + self.barred, self._by_group(rest)
        best = np.maximum(train, rest)
        worth = price * self.rows.limit
        terms = np.abs(worth).sum() + np.abs(best).sum()
        bound = float("-inf")
        if np.isfinite(terms):
            bound = self.scale * float(worth.sum() + best.sum() + ROUNDING * terms)
            bound += self.offset + ROUNDING * self.base_magnitude
        with np.errstate(invalid="ignore"):
            advantage = np.where(np.isneginf(best), 0.0, self.scale * (train - rest))
        return Dual(self.scale * price, bound, advantage)

    def lowest(self) -> Dual:
        """The dual at the best prices found."""
        price = np.zeros(len(self.rows.limit))
        best = self.at(price)
        if not len(price) or not np.isfinite(best.bound):
            return best
        unit = self._price_unit()
        for temperature in TEMPERATURES:
            result = minimize(
                lambda scaled, t=temperature: self._smoothed(scaled, unit, t),
                best.price / self.scale / unit,
                jac=True,
                method="L-BFGS-B",
                bounds=[(0.0, None)] * len(unit),
                options={"maxiter": MAX_ITERATIONS, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-10},
            )
            found = self.at(np.asarray(result.x) * unit)
            if found.bound < best.bound:
                best = found
        return best

    def _smoothed(
        self, scaled: np.ndarray, unit: np.ndarray, temperature: float
    ) -> tuple[float, np.ndarray]:
        """The smoothed dual and its gradient in the scaled prices, per item."""
        price = scaled * unit
        reduced, setup = self._reduced(price)
        train, train_share = _soft_maximum(reduced[list(TRAINING)], temperature)
        rest, rest_share = _soft_maximum(reduced[list(RESTING)], temperature)
        both = np.stack([self._by_group(train) - setup + self.barred, self._by_group(rest)])
        best, share = _soft_maximum(both, temperature * self.group_smoothing)
        weight = np.zeros((NUM_CHOICES, len(self.group)))
        weight[list(TRAINING)] = share[0][self.group] * train_share
        weight[list(RESTING)] += share[1][self.group] * rest_share
        usage = self.rows.matrix @ np.concatenate([weight.ravel(), share[0]])
        bound = float(price @ self.rows.limit + best.sum())
        count = len(self.group)
        return bound / count, (self.rows.limit - usage) * unit / count

    def _reduced(self, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gains less what they pay, float ``[4, num_items]``, and what setups pay."""
        charge = self.transposed @ price
        num_paid = self.gain.size
        return self.gain - charge[:num_paid].reshape(self.gain.shape), charge[num_paid:]

    def _by_group(self, of_item: np.ndarray) -> np.ndarray:
        return np.bincount(self.group, of_item, minlength=self.num_groups)

    def _price_unit(self) -> np.ndarray:
        """Prices at which a row costs what its items and groups are worth, float ``[num_rows]``."""
        gain = np.where(np.isfinite(self.gain), self.gain, 0.0)
        span = gain.max(axis=0) - gain.min(axis=0)
        worth = np.concatenate([np.tile(span, NUM_CHOICES), self._by_group(span)])
        present = self.rows.matrix.copy()
        present.data = np.abs(present.data)
        used = np.asarray(present.sum(axis=1)).ravel()
        present.data = (present.data > 0).astype(float)
        unit = np.divide(present @ worth, used, out=np.ones_like(used), where=used > 0)
        return np.where(unit > 0, unit, 1.0)


def _soft_maximum(
    table: np.ndarray, temperature: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """T log sum exp(table / T) over the first axis, and the share of each entry; -inf and 0 where
    all are -inf."""
    top = table.max(axis=0)
    share = np.exp((table - np.where(np.isfinite(top), top, 0.0)) / temperature)
    total = np.maximum(share.sum(axis=0), 1e-300)
    return top + temperature * np.log(total), share / total
