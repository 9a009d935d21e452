"""What `d2ft plan` answers: a plan on the best way, or one of one model that is placed by name."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.console.formatting import quantity
from analysis.console.output import amount, percent, print_columns, print_table
from analysis.names.placement_names import PlacementName
from analysis.names.precision_names import PrecisionName
from analysis.names.way_names import WayName
from analysis.planning.plan_baselines import Baselines, baselines, way_record
from analysis.planning.plan_request import Planned
from analysis.planning.plan_summary import summarize
from analysis.planning.request import Request
from analysis.planning.way_request import PlannedOnWay
from analysis.planning.way_tables import (
    print_memory,
    print_operations,
    print_step,
    print_ways,
    ways_dict,
)
from analysis.planning.way_words import (
    adapters_text,
    beside_dense,
    is_whole,
    pays,
    sentence,
    verdict,
)
from analysis.planning.what_would_pay import change_that_pays
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.plan.solved_plan import Plan
from sim.step import simulate_plan


@dataclass(frozen=True, eq=False)
class AnswerByWay:
    """A plan on the best way.

    Attributes:
        planned: the plan.
        change: what would make a plan pay where this one does not, see `change_that_pays`.
        file: where the plan is written.
    """

    planned: PlannedOnWay
    change: str | None
    file: Path

    @classmethod
    def of(
        cls,
        planned: PlannedOnWay,
        file: Path,
        request: Request,
        way: WayName | None,
        cluster_of: Callable[[PrecisionName], Cluster],
        *,
        target_step_time: str | None,
        seed: int,
    ) -> "AnswerByWay":
        """With the change that would make a plan pay, looked for where it is needed alone."""
        change = None
        if not is_whole(planned) and not pays(planned):
            change = change_that_pays(
                request, way, cluster_of, target_step_time=target_step_time, seed=seed
            )
        return cls(planned, change, file)

    @property
    def plan(self) -> Plan:
        return self.planned.found.plan

    @property
    def starved(self) -> str:
        return self.planned.starved

    @property
    def verdict(self) -> str:
        return verdict(self.planned, self.change)

    def as_dict(self) -> dict[str, Any]:
        """The plan beside what needs no planner, and all ways."""
        return {"verdict": self.verdict, "change_that_pays": self.change} | ways_dict(
            self.planned, self.file
        )

    def print_tables(self) -> None:
        """What devices do, the step, and the ways."""
        print_operations(self.plan, self.planned.found.samples)
        print_memory(self.plan)
        if not is_whole(self.planned):
            print_step(self.planned)
        print_ways(self.planned)

    def notes(self) -> Iterator[str]:
        """Lines below the tables."""
        bound_s = self.planned.found.lower_bound_s
        yield f"No way takes less than {quantity(bound_s, 's')} for a dense step"
        if self.planned.target:
            yield f"Target step time: {self.planned.target}"
        said = adapters_text(self.planned)
        if said:
            yield said

    def last_line(self) -> str:
        """What to do."""
        return sentence(self.planned, self.file)


@dataclass(frozen=True, eq=False)
class AnswerByPlacement:
    """A plan of one model, placed by name.

    Attributes:
        planned: the plan.
        placement: its name.
        has_coverage: whether a coverage was asked for.
        file: where the plan is written.
        step_s: predicted.
        baselines: what it is held against.
    """

    planned: Planned
    placement: PlacementName
    has_coverage: bool
    file: Path
    step_s: float
    baselines: Baselines

    @classmethod
    def of(
        cls, planned: Planned, file: Path, placement: PlacementName, *, has_coverage: bool
    ) -> "AnswerByPlacement":
        """With what it is held against."""
        plan = planned.plan
        step_s = simulate_plan(plan).step_s
        held = baselines(plan, step_s)
        return cls(planned, placement, has_coverage, file, step_s, held)

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    @property
    def starved(self) -> str:
        return self.planned.starved

    @property
    def verdict(self) -> str:
        return beside_dense(self.step_s, self.baselines)

    def as_dict(self) -> dict[str, Any]:
        """How it was placed, and what it is held against."""
        dense, fewer = self.baselines.best_dense, self.baselines.fewer
        return {
            "verdict": self.verdict,
            "placement": self.placement.value,
            "plan_step_s": self.step_s,
            "best_dense_step_s": None if dense is None else dense.dense_step_s,
            "best_dense": None if dense is None else way_record(dense),
            "fewer_samples_step_s": None if fewer is None else fewer.dense_step_s,
            "fewer_samples": None if fewer is None else way_record(fewer),
            "dense_step_lower_bound_s": self.baselines.search.lower_bound_s,
            "placed_dense_step_s": self.planned.placed.dense_step_s,
            "placed_dense_step_lower_bound_s": self.planned.placed.lower_bound_s,
            "patterns_tried": [asdict(one) for one in self.planned.tried],
        }

    def print_tables(self) -> None:
        """What devices do, and FLOPs and messages beside the dense step that is placed alike."""
        plan = self.plan
        summary = summarize(plan)
        print_operations(plan, (int(plan.workload.samples.sum()),))
        print_memory(plan)
        bytes_fraction = summary.communication_fraction if summary.dense_exchange_bytes else None
        print_table(
            "One step",
            ["", "dense, placed alike", "plan", "of dense"],
            [
                [
                    "compute, trunk included",
                    amount(summary.dense_flops, "FLOP"),
                    amount(summary.flops, "FLOP"),
                    percent(summary.compute_fraction),
                ],
                [
                    "exchanged",
                    amount(summary.dense_exchange_bytes, "B"),
                    amount(summary.exchange_bytes, "B"),
                    percent(bytes_fraction),
                ],
            ],
        )
        if self.planned.tried:
            print_columns(
                "Patterns of a block on a device: score, and the step (predicted); > is chosen",
                ["", "score", "step"],
                [
                    [
                        f"{'>' if one.patterns == plan.budget.patterns else ' '} "
                        f"{one.patterns or 'any'}",
                        percent(one.value),
                        quantity(one.step_s, "s"),
                    ]
                    for one in self.planned.tried
                ],
            )

    def notes(self) -> Iterator[str]:
        """Where it is placed, and what was added to what was asked for."""
        plan, placed = self.plan, self.planned.placed
        num_devices = len(plan.cluster.devices)
        yield f"Placement {self.placement}: {placed.describe(num_devices, plan.placement)}"
        if len(set(plan.placement.subnet_device)) < num_devices:
            yield (
                "More devices were found to slow the dense step; --placement every-device uses all"
            )
        if plan.budget.coverage and not self.has_coverage:
            yield (
                "Every micro-batch passes at least one subnet of every block, which the most score "
                "alone would not give it; --coverage 0 leaves that out"
            )
        if self.planned.target:
            yield f"Target step time: {self.planned.target}"

    def last_line(self) -> str:
        """What to do."""
        return f"Wrote {self.file}; next: d2ft simulate {self.file}"
