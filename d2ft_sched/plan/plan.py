"""A plan: everything that simulator and runtime need to know about one training step."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.schedule import check_schedule, schedule_from_rows


@dataclass(frozen=True)
class SolverRecord:
    """What a solver said of the schedule it returned.

    Attributes:
        name: registry name of the solver.
        method: what it did, and why where it chose.
        status: OPTIMAL, FEASIBLE, INFEASIBLE or TIME_LIMIT.
        objective: sum of the values of the chosen operations.
        upper_bound: proven bound on any schedule's objective; None where the solver has none.
        build_s: seconds to set the problem up for the solver.
        solve_s: seconds to solve it.
    """

    name: str
    method: str
    status: str
    objective: float
    upper_bound: float | None
    build_s: float
    solve_s: float

    @property
    def gap(self) -> float | None:
        """(bound - objective) / |objective|, None without a bound."""
        if self.upper_bound is None:
            return None
        difference = max(0.0, self.upper_bound - self.objective)
        return difference / abs(self.objective) if self.objective else difference


@dataclass(frozen=True)
class Plan:
    """Partition, placement, budget and schedule for one mini-batch on one cluster.

    Attributes:
        workload: model, partition and mini-batch.
        cluster: the devices and links that it was made for.
        placement: device of every subnet, owner of every micro-batch.
        budget: what the capacities were derived from.
        solver: how the schedule was found.
        schedule_rows: one string per subnet, one letter (F, O, S) per micro-batch.
        num_waves: groups of micro-batches that pass through the model one after another.
        provenance: versions, seed and command.
    """

    workload: Workload
    cluster: Cluster
    placement: Placement
    budget: Budget
    solver: SolverRecord
    schedule_rows: tuple[str, ...]
    num_waves: int = 1
    provenance: dict[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule  # noqa: B018  checks the rows
        if self.placement.num_devices != len(self.cluster.devices):
            raise InputError(
                f"the placement is for {self.placement.num_devices} devices; cluster "
                f"{self.cluster.name!r} has {len(self.cluster.devices)}"
            )
        for name, given, needed in (
            ("subnets", len(self.placement.subnet_device), self.workload.num_subnets),
            ("micro-batches", len(self.placement.owner), self.workload.num_microbatches),
        ):
            if given != needed:
                raise InputError(f"the placement is of {given} {name}; the workload has {needed}")
        if not 1 <= self.num_waves <= self.workload.num_microbatches:
            raise InputError(
                f"number of waves is {self.num_waves}; it must be between 1 and the "
                f"{self.workload.num_microbatches} micro-batches"
            )

    @cached_property
    def schedule(self) -> np.ndarray:
        """Operations, int8 ``[num_subnets, num_microbatches]``."""
        return check_schedule(
            schedule_from_rows(self.schedule_rows),
            self.workload.num_subnets,
            self.workload.num_microbatches,
        )
