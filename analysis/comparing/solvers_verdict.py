"""The best solver's plan beside what needs no planner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.comparing.comparison import Compared, best_answer
from analysis.planning.plan_baselines import Baselines, baselines, way_record
from analysis.planning.way_words import beside_dense
from analysis.simulating.change_of_setting import change_where_needed, with_change
from sim.step import simulate_plan


@dataclass(frozen=True, eq=False)
class Verdict:
    """The best solver's plan beside the best dense way and fewer samples.

    Attributes:
        solver: whose plan has the most value.
        step_s: of that plan.
        held: what it is held against.
        change: with what a plan would pay where this one does not.
        text: all of it in one line.
    """

    solver: str
    step_s: float
    held: Baselines
    change: str | None
    text: str

    @classmethod
    def of(cls, answers: Mapping[str, Compared], seed: int) -> "Verdict | None":
        """None where no solver found a schedule."""
        best = best_answer(answers)
        plan = None if best is None else answers[best].plan
        if best is None or plan is None:
            return None
        step_s = simulate_plan(plan).step_s
        held = baselines(plan, step_s)
        change = change_where_needed(plan, step_s, held, seed)
        said = with_change(beside_dense(step_s, held), plan, step_s, held, change)
        return cls(best, step_s, held, change, f"{best}: {said}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        dense, fewer = self.held.best_dense, self.held.fewer
        return {
            "verdict": self.text,
            "best_solver": self.solver,
            "best_dense": None if dense is None else way_record(dense),
            "fewer_samples": None if fewer is None else way_record(fewer),
            "change_that_pays": self.change,
        }
