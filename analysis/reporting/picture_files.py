"""A picture from the file that a user has: a plan, a scores table, or a command's table."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.comparing.comparison import COLUMNS as COMPARISON_COLUMNS
from analysis.comparing.scaling import COLUMNS as SCALING_COLUMNS
from analysis.names.picture_names import PictureName
from analysis.planning.plan_baselines import fitting_dense
from analysis.plots.cluster_graph import cluster_topology
from analysis.plots.device_workload import workload_per_device
from analysis.plots.schedule_heatmap import schedule_heatmap
from analysis.plots.scores_heatmap import score_heatmap
from analysis.plots.solver_scaling import solver_scaling
from analysis.plots.solvers import solver_comparison
from analysis.plots.step_budget import step_time_against_budget
from analysis.plots.timeline import step_gantt
from analysis.plots.tradeoff import compute_communication_tradeoff
from analysis.plots.training.method_accuracy import accuracy_against, accuracy_ranked
from analysis.plots.validation import validation_scatter
from analysis.results.table_file import matching, read_table
from analysis.studying.study_grid import ANY_BUDGET
from analysis.sweeping.sweep_plots import one_of
from analysis.sweeping.sweep_table import CHOSEN, GIVEN, load_table
from analysis.validating.plans_tried import QUANTITIES
from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan_file import load_plan
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.scores import load_scores
from sim.step import simulate_dense, simulate_plan
from sim.ways.search import search_ways

_OF_PLAN: dict[PictureName, Callable[[Plan], Figure]] = {
    PictureName.SCHEDULE: schedule_heatmap,
    PictureName.TIMELINE: lambda plan: step_gantt(_timelines(plan)),
    PictureName.WORKLOAD: lambda plan: workload_per_device(_timelines(plan)),
    PictureName.TOPOLOGY: lambda plan: cluster_topology(simulate_plan(plan)),
}


def picture(
    name: PictureName, file: Path, *, plan_file: Path | None = None, where: Sequence[str] = ()
) -> Figure:
    """Draw a picture of a file.

    Args:
        name: of the picture; what `file` must be is said at `PictureName`.
        file: a plan or a table.
        plan_file: for a scores table, a plan of its subnets and micro-batches.
        where: for tables, ``COLUMN=VALUE`` that rows must have. Of what still differs where a
            picture shows one only, the first is drawn, of scales the one nearest to 1.

    Raises:
        InputError: a file or condition does not fit; the line names it.
    """
    if plan_file is not None and name != PictureName.SCORES:
        raise InputError(f"--plan goes with the picture scores, not with {name}")
    if name == PictureName.SCORES or name in _OF_PLAN:
        if where:
            raise InputError(f"--where goes with pictures of tables, not with {name}")
        if name != PictureName.SCORES:
            return _OF_PLAN[name](load_plan(file))
        if plan_file is None:
            raise InputError("scores needs --plan PLAN, which says whose subnets they are")
        workload = load_plan(plan_file).workload
        scores = load_scores(file, workload.num_subnets, workload.num_microbatches)
        return score_heatmap(scores, workload.partition)
    return _OF_TABLE[name](file, where)


def _timelines(plan: Plan) -> dict[str, pd.DataFrame]:
    """Of the best dense way that fits, and of the plan; where none fits dense on its replicas."""
    best = fitting_dense(search_ways(plan.workload, plan.cluster))
    dense = simulate_dense(plan if best is None else best)
    return {"dense": dense.timeline(), "plan": simulate_plan(plan).timeline()}


def _sweep(file: Path, where: Sequence[str], agree_in: tuple[str, ...]) -> pd.DataFrame:
    table = one_of(matching(file, load_table(file), where), agree_in)
    if table["retained_score_fraction"].isna().all():
        raise InputError(f"{file}: none of the points asked for has a plan")
    return table


def _solvers(file: Path, where: Sequence[str]) -> Figure:
    texts = ("solver", "status", "method")
    table = read_table(file, texts, "d2ft compare", texts)
    if "num_devices" not in table.columns:
        read_table(file, COMPARISON_COLUMNS, "d2ft compare", texts)
        return solver_comparison(matching(file, table.dropna(subset=["objective"]), where))
    read_table(file, SCALING_COLUMNS, "d2ft compare --sizes", texts)
    table = one_of(matching(file, table, where), ("tightness",))
    return solver_scaling(table, float(table["tightness"].iloc[0]))


def _validation(file: Path, where: Sequence[str]) -> Figure:
    columns = [f"{said}_{q}" for said in ("predicted", "measured") for q in QUANTITIES]
    table = read_table(file, ["plan", *columns], "d2ft validate", ["plan"])
    return validation_scatter(matching(file, table, where))


def _study(file: Path, where: Sequence[str], *numbers: str) -> pd.DataFrame:
    texts = ("cluster", "budget", "method")
    table = read_table(file, (*texts, *numbers), "d2ft study", texts)
    return one_of(matching(file, table, where), ("cluster",))


def _accuracy(column: str, file: Path, where: Sequence[str]) -> Figure:
    return accuracy_against(_study(file, where, "epoch", "top1", column), column)


def _ranked(file: Path, where: Sequence[str]) -> Figure:
    return accuracy_ranked(
        _study(file, where, "top1_mean", "top1_std", "compute_fraction"), ANY_BUDGET
    )


_OF_TABLE: dict[PictureName, Callable[[Path, Sequence[str]], Figure]] = {
    PictureName.TRADEOFF: lambda file, where: compute_communication_tradeoff(
        _sweep(file, where, GIVEN)
    ),
    PictureName.STEP_TIME: lambda file, where: step_time_against_budget(
        _sweep(file, where, CHOSEN)
    ),
    PictureName.SOLVERS: _solvers,
    PictureName.VALIDATION: _validation,
    PictureName.ACCURACY: lambda file, where: _accuracy("compute_fraction", file, where),
    PictureName.ACCURACY_TIME: lambda file, where: _accuracy("simulated_s", file, where),
    PictureName.ACCURACY_RANKED: _ranked,
}
