"""A plan: everything that simulator and runtime need to know about one training step."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.replica_part import ReplicaPart
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
class Plan(Deployment):
    """A deployment and its schedule of one mini-batch, on the cluster that it was made for.

    Attributes:
        budget: what the capacities were derived from.
        solver: how the schedule was found.
        schedule_rows: one string per subnet, one letter (F, R, O, S) per micro-batch.
        provenance: versions, seed and command.
    """

    budget: Budget
    solver: SolverRecord
    schedule_rows: tuple[str, ...]
    provenance: dict[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule  # noqa: B018  checks the rows
        super().__post_init__()

    @cached_property
    def schedule(self) -> np.ndarray:
        """Operations, int8 ``[num_subnets, num_microbatches]``."""
        return check_schedule(
            schedule_from_rows(self.schedule_rows),
            self.workload.num_subnets,
            self.workload.num_microbatches,
        )

    @property
    def parts(self) -> tuple[ReplicaPart, ...]:
        """What each replica does."""
        return self.parts_of(self.schedule)
