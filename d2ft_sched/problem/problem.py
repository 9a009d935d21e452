"""The scheduling problem: a multiple-choice knapsack per device (or device and block)."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.problem.shared import (
    NOT_COUNTED,
    Coverage,
    SharedConstraint,
    SharedLimit,
    check_groups,
)
from d2ft_sched.schedule.operations import NUM_OPERATIONS, Operation

CAPACITY_TOLERANCE = 1e-9
"""A capacity admits this much more, relatively: 0.6 * 5 * c admits three items of cost c."""

ROUNDING = 1e-12
"""Relative rounding that the check of a schedule allows on top, for sums in another order."""

MAX_MAGNITUDE = 1e30
"""Largest value or cost: sums and products of larger ones may overflow."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Choose an operation per (subnet, micro-batch) item, of most value within all capacities.

    Attributes:
        value: value of each operation, float ``[num_subnets, num_microbatches, 3]``, in the order
            of `Operation`; may be negative.
        cost: spending of each operation, float >= 0
            ``[num_resources, num_subnets, num_microbatches, 3]``, in each resource's own unit.
        knapsack: who pays, int ``[num_subnets]`` or ``[num_subnets, num_microbatches]``.
        capacity: what a knapsack may spend, float >= 0 ``[num_knapsacks, num_resources]``, ``inf``
            where free.
        shared: constraints across knapsacks.

    A constraint holds if the spending is at most capacity * (1 + `CAPACITY_TOLERANCE`).

    Raises:
        InputError: an array has another shape or type, or an entry is out of range.
    """

    value: np.ndarray
    cost: np.ndarray
    knapsack: np.ndarray
    capacity: np.ndarray
    shared: tuple[SharedConstraint, ...] = ()

    def __post_init__(self) -> None:
        value = float_array("value", self.value, ndim=3)
        cost = float_array("cost", self.cost, ndim=4)
        capacity = float_array("capacity", self.capacity, ndim=2)
        num_subnets, num_microbatches, num_operations = value.shape
        if num_operations != NUM_OPERATIONS or not num_subnets or not num_microbatches:
            raise InputError(
                f"value has shape {list(value.shape)}; it must be [num_subnets, num_microbatches, "
                f"3] with at least one subnet and micro-batch"
            )
        if cost.shape[1:] != value.shape:
            raise InputError(
                f"cost has shape {list(cost.shape)}; it must be [num_resources, "
                f"{num_subnets}, {num_microbatches}, 3] like value"
            )
        if capacity.shape[1] != cost.shape[0]:
            raise InputError(
                f"capacity has shape {list(capacity.shape)}; it must be [num_knapsacks, "
                f"{cost.shape[0]} resources] as cost has"
            )
        refuse("value", value, np.abs(value) <= MAX_MAGNITUDE, f"at most {MAX_MAGNITUDE:g}")
        refuse("cost", cost, (cost >= 0) & (cost <= MAX_MAGNITUDE), f"from 0 to {MAX_MAGNITUDE:g}")
        refuse("capacity", capacity, capacity >= 0, "at least 0 (inf where free)")
        knapsack = check_groups("knapsack", self.knapsack, num_subnets, num_microbatches)
        wrong = np.argwhere((knapsack < 0) | (knapsack >= len(capacity)))
        if len(wrong):
            s, i = wrong[0]
            raise InputError(
                f"knapsack of subnet {s}, micro-batch {i} is {knapsack[s, i]}; capacity has "
                f"{len(capacity)} knapsacks, 0 to {len(capacity) - 1}"
            )
        shared = tuple(_check_shared(c, cost) for c in self.shared)
        for name, checked in zip(
            (f.name for f in fields(self)), (value, cost, knapsack, capacity, shared), strict=True
        ):
            object.__setattr__(self, name, checked)

    @property
    def num_subnets(self) -> int:
        """Rows of a schedule."""
        return int(self.value.shape[0])

    @property
    def num_microbatches(self) -> int:
        """Columns of a schedule."""
        return int(self.value.shape[1])

    @property
    def num_resources(self) -> int:
        """What every knapsack has a capacity of."""
        return int(self.cost.shape[0])

    @property
    def num_knapsacks(self) -> int:
        """Devices, or pairs of device and block."""
        return int(self.capacity.shape[0])

    @property
    def num_items(self) -> int:
        """Number of (subnet, micro-batch) pairs."""
        return self.num_subnets * self.num_microbatches

    @cached_property
    def admitted(self) -> np.ndarray:
        """Capacity with its tolerance, float ``[num_knapsacks, num_resources]``."""
        return self.capacity * (1 + CAPACITY_TOLERANCE)

    def objective(self, schedule: np.ndarray) -> float:
        """Sum of the values of the chosen operations."""
        return float(at_operations(self.value, schedule).sum())

    def spending(self, schedule: np.ndarray) -> np.ndarray:
        """What each knapsack spends, float ``[num_knapsacks, num_resources]``."""
        spent = np.empty((self.num_knapsacks, self.num_resources))
        knapsack = self.knapsack.ravel()
        for r in range(self.num_resources):
            chosen = at_operations(self.cost[r], schedule)
            spent[:, r] = np.bincount(knapsack, chosen.ravel(), minlength=self.num_knapsacks)
        return spent

    def violation(self, schedule: np.ndarray) -> str | None:
        """The first constraint that a schedule breaks, as one line; None if it keeps all.

        Args:
            schedule: operations, int ``[num_subnets, num_microbatches]``.
        """
        shape = (self.num_subnets, self.num_microbatches)
        if schedule.shape != shape or not np.isin(schedule, range(NUM_OPERATIONS)).all():
            return f"the schedule is not a table {list(shape)} of operations 0, 1, 2"
        spent = self.spending(schedule)
        broken = np.argwhere(spent > self.admitted * (1 + ROUNDING))
        if len(broken):
            k, r = broken[0]
            return f"knapsack {k} spends {spent[k, r]!r} of {self.capacity[k, r]!r} in resource {r}"
        for constraint in self.shared:
            message = shared_violation(constraint, self.cost, schedule)
            if message:
                return message
        return None


def float_array(name: str, array: np.ndarray, ndim: int) -> np.ndarray:
    """A read-only float64 view (a copy only where the type or layout asks for one)."""
    try:
        checked = np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers") from None
    if np.ndim(array) != ndim:
        raise InputError(f"{name} has {np.ndim(array)} axes; it must have {ndim}")
    view = checked.view()
    view.flags.writeable = False
    return view


def refuse(name: str, array: np.ndarray, good: np.ndarray, what: str) -> None:
    """Raise an `InputError` that names the first entry that is not `good`."""
    if not good.all():
        index = tuple(int(j) for j in np.argwhere(~good)[0])
        raise InputError(f"{name}{list(index)} is {array[index]}; it must be {what}")


def _check_shared(constraint: SharedConstraint, cost: np.ndarray) -> SharedConstraint:
    num_resources, num_subnets, num_microbatches, _ = cost.shape
    name = constraint.name
    group = check_groups(f"group of {name}", constraint.group, num_subnets, num_microbatches)
    if isinstance(constraint, Coverage):
        if np.ndim(constraint.group) != 1:
            raise InputError(f"group of {name} must be of shape [{num_subnets} subnets]")
        if not constraint.minimum >= 0 or constraint.minimum % 1:
            raise InputError(
                f"minimum of {name} is {constraint.minimum}; it must be a whole number, at least 0"
            )
        return Coverage(group[:, 0], int(constraint.minimum), name)
    if not 0 <= constraint.resource < num_resources:
        raise InputError(
            f"resource of {name} is {constraint.resource}; cost has resources 0 to "
            f"{num_resources - 1}"
        )
    capacity = float_array(f"capacity of {name}", constraint.capacity, ndim=1)
    refuse(f"capacity of {name}", capacity, capacity >= 0, "at least 0 (inf where free)")
    if group.max() >= len(capacity):
        raise InputError(
            f"group of {name} goes up to {group.max()}; its capacity has "
            f"{counted(len(capacity), 'group')}"
        )
    return SharedLimit(int(constraint.resource), group, capacity, name)


def shared_violation(
    constraint: SharedConstraint, cost: np.ndarray, schedule: np.ndarray
) -> str | None:
    """What breaks a shared constraint, as one line; None if it holds.

    Args:
        constraint: checked.
        cost: float ``[num_resources, num_subnets, num_microbatches, num_operations]``.
        schedule: operations, int ``[num_subnets, num_microbatches]``.
    """
    if isinstance(constraint, Coverage):
        counted = constraint.group != NOT_COUNTED
        num_groups = int(constraint.group.max(initial=-1)) + 1
        active = np.zeros((num_groups, schedule.shape[1]), dtype=np.int64)
        np.add.at(active, constraint.group[counted], schedule[counted] != Operation.SHORTCUT)
        present = np.bincount(constraint.group[counted], minlength=num_groups) > 0
        broken = np.argwhere(present[:, None] & (active < constraint.minimum))
        if len(broken):
            g, i = broken[0]
            return (
                f"{constraint.name}: group {g} has {active[g, i]} active subnets in micro-batch "
                f"{i}; it must have {constraint.minimum}"
            )
        return None
    counted = constraint.group != NOT_COUNTED
    chosen = at_operations(cost[constraint.resource], schedule)
    spent = np.bincount(
        constraint.group[counted], chosen[counted], minlength=len(constraint.capacity)
    )
    admitted = constraint.capacity * (1 + CAPACITY_TOLERANCE)
    over = np.flatnonzero(spent > admitted * (1 + ROUNDING))
    if len(over):
        g = over[0]
        return (
            f"{constraint.name}: group {g} spends {spent[g]!r} of {constraint.capacity[g]!r} "
            f"in resource {constraint.resource}"
        )
    return None


def at_operations(table: np.ndarray, schedule: np.ndarray) -> np.ndarray:
    """Entries of ``table [num_subnets, num_microbatches, num_operations]`` at the operations."""
    return np.take_along_axis(table, schedule[..., None].astype(np.intp), axis=2)[..., 0]
