"""The scheduling problem with setups: what a step pays once for each group of weights it trains.

A subnet *trains* in a step if any micro-batch is FULL for it. Only then its gradient is summed over
replicas and its weights are updated: a setup, paid once however many micro-batches train it. All
subnets of a group (a block, say) train or rest together. In a group that rests no operation is
FULL; REST stands in its place, forward and backward to the input alone.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.problem.problem import (
    CAPACITY_TOLERANCE,
    MAX_MAGNITUDE,
    ROUNDING,
    Problem,
    at_operations,
    float_array,
    refuse,
    shared_violation,
)
from d2ft_sched.schedule.operations import Operation


@dataclass(frozen=True, eq=False)
class SetupProblem:
    """Choose what trains and an operation per item, of most value within all capacities.

    Attributes:
        problem: values, costs and capacities of SHORTCUT, FORWARD_ONLY and FULL.
        rest_value: value of REST, float ``[num_subnets, num_microbatches]``.
        rest_cost: spending of REST, float >= 0 ``[num_resources, num_subnets, num_microbatches]``.
        setup_cost: what a subnet that trains spends once, in resources of its own (gradient bytes
            over the busiest link, seconds of a sum), float >= 0
            ``[num_setup_resources, num_subnets]``.
        setup_capacity: what all together may spend, float >= 0 ``[num_setup_resources]``, ``inf``
            where free.
        group: which subnets share one decision, int >= 0 ``[num_subnets]``; each its own if None.
        knapsack_setup_cost: what it spends once of a knapsack's resource (seconds of an update),
            float >= 0 ``[num_knapsacks, num_resources, num_subnets]``; nothing if None. Shared
            limits do not count it.

    A group with any FULL pays the setups of all its subnets. Constraints hold as in `Problem`.

    Raises:
        InputError: an array has another shape or type, or an entry is out of range.
    """

    problem: Problem
    rest_value: np.ndarray
    rest_cost: np.ndarray
    setup_cost: np.ndarray
    setup_capacity: np.ndarray
    group: np.ndarray = field(default=None)  # type: ignore
    knapsack_setup_cost: np.ndarray = field(default=None)  # type: ignore

    def __post_init__(self) -> None:
        base = self.problem
        items = (base.num_subnets, base.num_microbatches)
        num_rows = (base.num_knapsacks, base.num_resources)
        group = np.arange(items[0]) if self.group is None else np.asarray(self.group)
        update = self.knapsack_setup_cost
        update = np.zeros((*num_rows, items[0])) if update is None else update
        capacity = float_array("setup_capacity", self.setup_capacity, ndim=1)
        tables = {
            "rest_value": (self.rest_value, items),
            "rest_cost": (self.rest_cost, (base.num_resources, *items)),
            "setup_cost": (self.setup_cost, (len(capacity), items[0])),
            "knapsack_setup_cost": (update, (*num_rows, items[0])),
        }
        for name, (given, shape) in tables.items():
            table = float_array(name, given, ndim=len(shape))
            if table.shape != shape:
                raise InputError(f"{name} has shape {list(table.shape)}; it must be {list(shape)}")
            least = -MAX_MAGNITUDE if name == "rest_value" else 0.0
            good = (table >= least) & (table <= MAX_MAGNITUDE)
            refuse(name, table, good, f"from {least:g} to {MAX_MAGNITUDE:g}")
            object.__setattr__(self, name, table)
        refuse("setup_capacity", capacity, capacity >= 0, "at least 0 (inf where free)")
        if group.shape != (items[0],) or not np.issubdtype(group.dtype, np.integer):
            raise InputError(f"group must be whole numbers of shape [{items[0]} subnets]")
        refuse("group", group, (group >= 0) & (group < items[0]), f"from 0 to {items[0] - 1}")
        object.__setattr__(self, "setup_capacity", capacity)
        object.__setattr__(self, "group", group.astype(np.int64, copy=False))

    @property
    def num_groups(self) -> int:
        """Decisions: one more than the largest group."""
        return int(self.group.max()) + 1

    @cached_property
    def value(self) -> np.ndarray:
        """Value of all operations, float ``[num_subnets, num_microbatches, 4]``."""
        return np.concatenate([self.problem.value, self.rest_value[..., None]], axis=-1)

    @cached_property
    def cost(self) -> np.ndarray:
        """Their spending, float ``[num_resources, num_subnets, num_microbatches, 4]``."""
        return np.concatenate([self.problem.cost, self.rest_cost[..., None]], axis=-1)

    @cached_property
    def group_setup_cost(self) -> np.ndarray:
        """Float ``[num_setup_resources, num_groups]``."""
        return self._by_group(self.setup_cost)

    @cached_property
    def group_knapsack_cost(self) -> np.ndarray:
        """Float ``[num_knapsacks, num_resources, num_groups]``."""
        return self._by_group(self.knapsack_setup_cost)

    @cached_property
    def setup_admitted(self) -> np.ndarray:
        """Setup capacity with its tolerance, float ``[num_setup_resources]``."""
        return self.setup_capacity * (1 + CAPACITY_TOLERANCE)

    def _by_group(self, table: np.ndarray) -> np.ndarray:
        member = self.group[:, None] == np.arange(self.num_groups)
        return table @ member.astype(float)

    def trains(self, schedule: np.ndarray) -> np.ndarray:
        """Whether any operation of a group is FULL, bool ``[num_groups]``."""
        full = (schedule == Operation.FULL).any(axis=1)
        return np.bincount(self.group, full, minlength=self.num_groups) > 0

    def objective(self, schedule: np.ndarray) -> float:
        """Sum of the values of the chosen operations."""
        return float(at_operations(self.value, schedule).sum())

    def fits(self, trains: np.ndarray) -> bool:
        """Whether the setups alone keep every capacity.

        Args:
            trains: bool ``[num_groups]``.
        """
        setups = self.group_setup_cost @ trains <= self.setup_admitted * (1 + ROUNDING)
        knapsacks = self.group_knapsack_cost @ trains <= self.problem.admitted * (1 + ROUNDING)
        return bool(setups.all() and knapsacks.all())

    def given(self, trains: np.ndarray) -> Problem:
        """What is left to choose where the training groups are given: a problem without setups.

        FULL stands for REST in the groups that rest.

        Args:
            trains: bool ``[num_groups]``; must fit.
        """
        rests = ~trains[self.group]
        value, cost = self.problem.value.copy(), self.problem.cost.copy()
        value[rests, :, Operation.FULL] = self.rest_value[rests]
        cost[..., Operation.FULL][:, rests] = self.rest_cost[:, rests]
        spent = self.group_knapsack_cost @ trains
        left = np.maximum(self.problem.admitted - spent, 0.0) / (1 + CAPACITY_TOLERANCE)
        capacity = np.where(spent > 0, left, self.problem.capacity)
        return replace(self.problem, value=value, cost=cost, capacity=capacity)

    def schedule(self, trains: np.ndarray, operations: np.ndarray) -> np.ndarray:
        """The schedule of a choice for the problem that `given` makes of the same groups."""
        rests = ~trains[self.group][:, None] & (operations == Operation.FULL)
        return np.where(rests, np.int8(Operation.REST), operations)

    def violation(self, schedule: np.ndarray) -> str | None:
        """The first constraint that a schedule breaks, as one line; None if it keeps all.

        Args:
            schedule: operations, int ``[num_subnets, num_microbatches]``.
        """
        base = self.problem
        shape = (base.num_subnets, base.num_microbatches)
        if schedule.shape != shape or not np.isin(schedule, list(Operation)).all():
            return f"the schedule is not a table {list(shape)} of operations 0, 1, 2, 3"
        trains = self.trains(schedule)
        resting = (schedule == Operation.REST).any(axis=1)
        mixed = np.flatnonzero(resting & trains[self.group])
        if len(mixed):
            return f"subnet {mixed[0]} rests while its group {self.group[mixed[0]]} trains"
        spent = self.group_setup_cost @ trains
        for q in np.flatnonzero(spent > self.setup_admitted * (1 + ROUNDING)):
            return f"setups spend {spent[q]:.17g} of {self.setup_capacity[q]:.17g} in resource {q}"
        knapsack = base.knapsack.ravel()
        for r, cost in enumerate(self.cost):
            chosen = at_operations(cost, schedule).ravel()
            spent = np.bincount(knapsack, chosen, minlength=base.num_knapsacks)
            spent += self.group_knapsack_cost[:, r] @ trains
            for k in np.flatnonzero(spent > base.admitted[:, r] * (1 + ROUNDING)):
                capacity = base.capacity[k, r]
                return f"knapsack {k} spends {spent[k]:.17g} of {capacity:.17g} in resource {r}"
        for constraint in base.shared:
            message = shared_violation(constraint, self.cost, schedule)
            if message:
                return message
        return None
