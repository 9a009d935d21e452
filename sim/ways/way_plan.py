"""A plan on a way, and what it is held against."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.files.provenance import provenance
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_to_rows
from sim.ways.candidates import Candidate
from sim.ways.estimate.load import Load
from sim.ways.redeal import redealt_scores
from sim.ways.search import WaySearch, best_dense, with_way
from sim.ways.table import WayRow, way_table
from sim.ways.way import Way


@dataclass(frozen=True, eq=False)
class WayPlan:
    """A plan and what it is held against.

    Attributes:
        plan: to be run.
        method: "dense", "fewer samples", "rest" or "scores".
        step_s: its predicted step.
        samples: of the mini-batch that each replica runs.
        kept_score: its value over that of the dense step, where rest counts as forward alone.
        best_dense: the least dense step of any way.
        fewer: fewer samples of the compute that the plan spends (or in as short a step), in their
            own best way.
        table: ways, the fastest dense step first.
        lower_bound_s: of any dense step.
    """

    plan: Plan
    method: str
    step_s: float
    samples: tuple[int, ...]
    kept_score: float
    best_dense: Way
    fewer: Way
    table: tuple[WayRow, ...]
    lower_bound_s: float


def way_plan(
    search: WaySearch,
    chosen: Candidate,
    load: Load,
    fewer: Way,
    scores: Scores,
    budget: Budget,
    *,
    solver: str,
    seed: int,
    solve_s: float,
) -> WayPlan:
    """Record a candidate that was chosen.

    Args:
        search: ways of the same mini-batch.
        chosen: the plan.
        load: what it does, see `way_table`.
        fewer: what it is held against.
        scores: of every subnet and micro-batch of the workload that was asked for.
        budget: that the plan was made for.
        solver: that made a schedule by scores.
        seed: of what was drawn.
        solve_s: seconds that all took.
    """
    kept, most = value_kept(search, scores, chosen)
    known = with_way(search, chosen.groups)
    plan = Plan(
        workload=chosen.workload,
        cluster=chosen.cluster,
        replicas=chosen.replicas,
        budget=budget,
        solver=SolverRecord(
            name=solver if chosen.method == "scores" else "ways",
            method=chosen.method,
            status="FEASIBLE",
            objective=kept,
            upper_bound=None,
            build_s=0.0,
            solve_s=solve_s,
        ),
        schedule_rows=tuple(schedule_to_rows(chosen.schedule)),
        provenance=provenance(seed),
    )
    return WayPlan(
        plan=plan,
        method=chosen.method,
        step_s=chosen.step_s,
        samples=chosen.samples,
        kept_score=kept / most if most else 1.0,
        best_dense=best_dense(known),
        fewer=fewer,
        table=way_table(known, chosen, load),
        lower_bound_s=search.lower_bound_s,
    )


def value_kept(search: WaySearch, scores: Scores, chosen: Candidate) -> tuple[float, float]:
    """Value of a candidate's schedule, of which rest has that of its forward pass, and of the dense
    step."""
    given, dealt = search.workload.microbatch_samples, chosen.workload.microbatch_samples
    value = redealt_scores(scores, given, dealt).values()
    rests = chosen.schedule == Operation.REST
    counted = np.where(rests, Operation.FORWARD_ONLY, chosen.schedule).astype(int)
    kept = np.take_along_axis(value, counted[..., None], axis=2)
    return float(kept.sum()), float(value[..., Operation.FULL].sum())
