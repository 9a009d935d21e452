"""Prices of resources from the linear relaxation of knapsacks, all at once.

The relaxation of a multiple-choice knapsack has few coupling rows (its resources), so a step of
Mehrotra's predictor-corrector interior-point method (SIAM J. Optim. 2(4), 1992) needs the solution
of one small system per knapsack; all knapsacks advance together.
"""

import numpy as np

MAX_ITERATIONS = 40
RIDGE = 1e-14
COMPLEMENTARITY = 1e-10
"""Mean product of a primal variable and its reduced cost, relative to the largest value."""
STEP_FRACTION = 0.99


def resource_prices(value: np.ndarray, cost: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Prices at which the relaxation's dual is smallest.

    Args:
        value: float ``[num_operations, num_knapsacks, width]``.
        cost: float ``[num_resources, num_operations, num_knapsacks, width]``; each resource's limit
            is 1.
        allowed: which operations may be chosen, bool ``[num_operations, num_knapsacks, width]``, at
            least one for each item.

    Returns:
        Value per limit of each resource, float >= 0 ``[num_resources, num_knapsacks]``. Any such
        prices give a valid bound; these are the best up to rounding.
    """
    num_resources, _, num_knapsacks, width = cost.shape
    if not num_resources:
        return np.zeros((0, num_knapsacks))
    scale = np.abs(np.where(allowed, value, 0.0)).max(axis=(0, 2))
    scale = np.where(scale > 0, scale, 1.0)
    with np.errstate(all="ignore"):
        price = _InteriorPoint(value / scale[:, None], cost * width, allowed, width).solve()
    return np.where(np.isfinite(price), price, 0.0) * scale * width


class _InteriorPoint:
    """Iterates of: minimise -value x, sum_o x = 1 per item, sum cost x + slack = limit.

    With costs and limit scaled by the number of items, prices are of the values' magnitude.
    """

    def __init__(
        self, value: np.ndarray, cost: np.ndarray, allowed: np.ndarray, limit: float
    ) -> None:
        self.cost, self.allowed, self.limit = cost, allowed, limit
        loss = np.where(allowed, -value, 0.0)
        self.x = allowed / allowed.sum(axis=0)
        self.price = np.ones((cost.shape[0], cost.shape[2]))
        self.slack = np.maximum(limit - self._spent(self.x), 0.1 * limit)
        reduced = loss + self._priced(self.price)
        lowest = np.where(allowed, reduced, np.inf).min(axis=0)
        self.z = np.where(allowed, reduced - lowest + 1, 1.0)
        self.num_pairs = allowed.sum(axis=(0, 2)) + len(cost)

    def _spent(self, x: np.ndarray) -> np.ndarray:
        return np.stack([np.einsum("okw,okw->k", c, x) for c in self.cost])

    def _priced(self, price: np.ndarray) -> np.ndarray:
        total = self.cost[0] * price[0][:, None]
        for c, p in zip(self.cost[1:], price[1:], strict=True):
            total += c * p[:, None]
        return total

    def solve(self) -> np.ndarray:
        """Prices of the best iterate of each knapsack; those that are done leave the batch."""
        best = np.full(self.price.shape[1], np.inf)
        price, left = self.price.copy(), np.arange(self.price.shape[1])
        for _ in range(MAX_ITERATIONS):
            products = np.einsum("okw,okw->k", self.x * self.allowed, self.z)
            mean = (products + (self.slack * self.price).sum(axis=0)) / self.num_pairs
            better = mean < best[left]
            price[:, left[better]] = self.price[:, better]
            best[left[better]] = mean[better]
            goes_on = np.isfinite(mean) & (best[left] > COMPLEMENTARITY)
            if not goes_on.any():
                break
            if not goes_on.all():
                self._keep(goes_on)
                left, mean = left[goes_on], mean[goes_on]
            self._advance(mean)
        return price

    def _keep(self, chosen: np.ndarray) -> None:
        """Of the batch these knapsacks alone, bool ``[num_knapsacks]``."""
        self.cost, self.allowed = self.cost[:, :, chosen], self.allowed[:, chosen]
        self.x, self.z = self.x[:, chosen], self.z[:, chosen]
        self.price, self.slack = self.price[:, chosen], self.slack[:, chosen]
        self.num_pairs = self.num_pairs[chosen]

    def _advance(self, mean: np.ndarray) -> None:
        system = self._system()
        dx, dz, dslack, dprice = self._direction(system, -self.x * self.z, -self.slack * self.price)
        primal, dual = self._step_lengths(dx, dz, dslack, dprice)
        reached = np.einsum(
            "okw,okw->k",
            (self.x + primal[:, None] * dx) * self.allowed,
            self.z + dual[:, None] * dz,
        )
        reached += ((self.slack + primal * dslack) * (self.price + dual * dprice)).sum(axis=0)
        target = (reached / self.num_pairs / mean) ** 3 * mean
        dx, dz, dslack, dprice = self._direction(
            system,
            np.where(self.allowed, target[:, None] - self.x * self.z - dx * dz, 0.0),
            target - self.slack * self.price - dslack * dprice,
        )
        primal, dual = self._step_lengths(dx, dz, dslack, dprice)
        primal, dual = STEP_FRACTION * primal, STEP_FRACTION * dual
        self.x = self.x + primal[:, None] * dx
        self.slack = self.slack + primal * dslack
        self.z = self.z + dual[:, None] * dz
        self.price = self.price + dual * dprice

    def _system(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
        """Weights x / z, their resource moments and sum per item, and the matrix per knapsack."""
        num_resources, _, num_knapsacks, _ = self.cost.shape
        weight = self.x / self.z
        total = weight.sum(axis=0)
        weighted = [weight * c for c in self.cost]
        moment = [w.sum(axis=0) for w in weighted]
        matrix = np.empty((num_knapsacks, num_resources, num_resources))
        for r in range(num_resources):
            for q in range(r + 1):
                entry = np.einsum("okw,okw->k", weighted[r], self.cost[q])
                entry -= np.einsum("kw,kw->k", moment[r] / total, moment[q])
                matrix[:, r, q] = matrix[:, q, r] = entry
            matrix[:, r, r] += self.slack[r] / self.price[r]
        return weight, moment, total, matrix

    def _direction(
        self,
        system: tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray],
        product_goal: np.ndarray,
        slack_goal: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Newton step towards given changes of the products x z and slack * price."""
        weight, moment, total, matrix = system
        push = product_goal / self.z
        pushed = push.sum(axis=0)
        right = self._spent(push) + slack_goal / self.price
        right -= self.limit - self._spent(self.x) - self.slack
        for r, m in enumerate(moment):
            right[r] -= np.einsum("kw,kw->k", m / total, pushed)
        dprice = _solve_small(matrix, right)
        dy = -pushed
        for m, d in zip(moment, dprice, strict=True):
            dy += m * d[:, None]
        dz = self._priced(dprice) - dy / total
        dx = push - weight * dz
        dslack = (slack_goal - self.slack * dprice) / self.price
        return dx, dz, dslack, dprice

    def _step_lengths(
        self, dx: np.ndarray, dz: np.ndarray, dslack: np.ndarray, dprice: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Longest primal and dual steps up to 1 that keep everything non-negative."""
        primal = np.maximum(self._largest(-dx, self.x), 1.0)
        primal = np.maximum(primal, (-dslack / self.slack).max(axis=0))
        dual = np.maximum(self._largest(-dz, self.z), 1.0)
        dual = np.maximum(dual, (-dprice / self.price).max(axis=0))
        return 1 / primal, 1 / dual

    def _largest(self, decrease: np.ndarray, present: np.ndarray) -> np.ndarray:
        ratio = np.divide(decrease, present, out=np.zeros_like(present), where=self.allowed)
        return ratio.max(axis=(0, 2))


def _solve_small(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve ``matrix [n, r, r]`` x = ``right [r, n]`` where the matrices are covariances.

    Knapsacks that have converged go on with the others of their batch until rounding leaves a
    diagonal at zero or below and correlations at one or above. So the diagonal is kept positive,
    and correlations are cut and ridged, for which no matrix is singular.
    """
    size = matrix.shape[1]
    finite = np.isfinite(matrix).all(axis=(1, 2))
    matrix = np.where(finite[:, None, None], matrix, np.eye(size))
    scale = np.sqrt(np.maximum(np.einsum("krr->kr", matrix), 1e-300))
    correlation = np.clip(matrix / scale[:, :, None] / scale[:, None, :], -1, 1)
    correlation[:, np.arange(size), np.arange(size)] = 1 + RIDGE
    scaled = np.linalg.solve(correlation, (right.T / scale)[..., None])[..., 0]
    return (scaled / scale).T
