"""A plan: everything that simulator and runtime need to know about one training step."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica, check_replicas
from d2ft_sched.schedule.replica_part import ReplicaPart, replica_parts
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
    """Partition, replicas, budget and schedule for one mini-batch on one cluster.

    Attributes:
        workload: model, partition and mini-batch.
        cluster: the devices and links that it was made for.
        replicas: copies of the model, each with micro-batches of its own, in order.
        budget: what the capacities were derived from.
        solver: how the schedule was found.
        schedule_rows: one string per subnet, one letter (F, R, O, S) per micro-batch.
        provenance: versions, seed and command.
    """

    workload: Workload
    cluster: Cluster
    replicas: tuple[Replica, ...]
    budget: Budget
    solver: SolverRecord
    schedule_rows: tuple[str, ...]
    provenance: dict[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule  # noqa: B018  checks the rows
        check_replicas(
            self.replicas,
            len(self.cluster.devices),
            self.workload.num_subnets,
            self.workload.num_microbatches,
        )

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
        return replica_parts(self.workload, self.replicas, self.schedule)

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices of any replica, sorted; the others are left out."""
        return tuple(sorted(d for replica in self.replicas for d in replica.devices))

    @property
    def placement(self) -> Placement:
        """Of a plan of one replica.

        Raises:
            InputError: it has several.
        """
        return self._only_replica.placement

    @property
    def num_waves(self) -> int:
        """Of a plan of one replica; errors as `placement`."""
        return self._only_replica.num_waves

    @property
    def _only_replica(self) -> Replica:
        if len(self.replicas) > 1:
            raise InputError(
                f"the plan has {len(self.replicas)} replicas; this needs a plan of one"
            )
        return self.replicas[0]
