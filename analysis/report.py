"""One self-contained HTML file, and its pictures, from a run directory."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.figure import Figure

from analysis.formatting import percent, points, quantity
from analysis.headline import answers, question
from analysis.plots.accuracy import accuracy_curves
from analysis.plots.schedule_heatmap import schedule_heatmap
from analysis.plots.solvers import solver_comparison
from analysis.plots.timeline import block_gantt, step_gantt
from analysis.plots.validation import predicted_against_measured
from analysis.plots.workload import network_seconds, workload_per_device
from analysis.report_tables import (
    accuracy_table,
    link_table,
    provenance_table,
    savings_table,
    solver_table,
    workload_table,
)
from analysis.run_dir import Run, load_run
from analysis.run_records import solver_rows
from analysis.savings import QUANTITIES, accuracy_interval, cluster_savings, device_pairs
from d2ft_sched.atomic_write import write_atomically, write_text

REPORT = "report.html"
PICTURES = "pictures"
_PNG_DPI = 160
_LARGEST_SVG_BYTES = 300_000


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        name: of its PNG file, without the ending.
        alt: what it shows, for those who do not see it.
        data_uri: its SVG, which stays sharp when enlarged, or its PNG where the SVG is large.
    """

    name: str
    alt: str
    data_uri: str


def write_report(run_dir: Path) -> Path:
    """Make ``report.html`` and ``pictures/*.png`` in a run directory from its other files.

    Returns:
        The path of the HTML file.

    Raises:
        InputError: as `analysis.run_dir.load_run`; then nothing is written.
    """
    run_dir = Path(run_dir)
    run = load_run(run_dir)
    pictures = {}
    for name, (make, alt) in _pictures(run).items():
        png, svg = _render(make())
        _write_bytes(run_dir / PICTURES / f"{name}.png", png)
        pictures[name] = Picture(name, alt, _data_uri(png, svg))
    path = run_dir / REPORT
    write_text(path, render_html(run, pictures))
    return path


def render_html(run: Run, pictures: dict[str, Picture]) -> str:
    """The report's text with its pictures inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    dense, plan = run.prediction.cluster["dense"], run.prediction.cluster["plan"]
    scoring, training = run.measurement.scoring, run.measurement.training
    return environment.get_template("report.html.j2").render(
        model=run.plan.workload.shape.name,
        cluster=run.plan.cluster.name,
        device=run.measurement.device,
        question=question(run),
        answers=answers(run),
        pictures=pictures,
        savings=savings_table(run),
        accuracy=accuracy_table(run),
        workload=workload_table(run),
        links=link_table(run),
        solvers=solver_table(run.comparison),
        methods=solver_rows(run.comparison),
        provenance=provenance_table(run),
        calibrated=plan.calibrated,
        exchanged=[quantity(p.exchange_bytes, "B") for p in (dense, plan)],
        network=[quantity(network_seconds(run.timelines[name]), "s") for name in ("dense", "plan")],
        scoring=(
            quantity(scoring.seconds, "s"),
            quantity(scoring.flops, "FLOP"),
            percent(scoring.flops / training["dense"].flops),
        ),
        budget=run.plan.budget,
        spread=[
            quantity(run.measurement.steps[name].step_s_spread, "s") for name in ("dense", "plan")
        ],
        chance=points(
            accuracy_interval(
                training["dense"].test_accuracy,
                training["plan"].test_accuracy,
                run.measurement.data.num_test,
            )
        ).lstrip("+"),
        num_test=run.measurement.data.num_test,
        solver=run.plan.solver,
        num_waves=run.plan.num_waves,
        percent=percent,
    )


def _pictures(run: Run) -> dict[str, tuple[Callable[[], Figure], str]]:
    cluster = run.plan.cluster.name
    step = cluster_savings(run)["step_s"]
    times = (
        f"{quantity(step.dense.predicted, 's')} dense, {quantity(step.plan.predicted, 's')} planned"
    )
    block = run.plan.workload.shape.num_blocks // 2
    training = run.measurement.training
    reached = ", ".join(f"{name} {percent(t.test_accuracy)}" for name, t in training.items())
    compared = [q for q in QUANTITIES if q[1] != "exchange_bytes"]
    return {
        "predicted_measured": (
            lambda: predicted_against_measured(
                [(title, unit, device_pairs(run, name)) for title, name, unit in compared]
            ),
            "Predicted against measured FLOPs, step time and peak memory of every run on one "
            "device, with the line of exact prediction.",
        ),
        "accuracy": (
            lambda: accuracy_curves(training, run.measurement.data.num_test),
            f"Test accuracy of every run against epochs and against training FLOPs. "
            f"After the last epoch: {reached}.",
        ),
        "schedule": (
            lambda: schedule_heatmap(run.plan),
            "The operation of every subnet and micro-batch: FULL, FORWARD_ONLY or SHORTCUT.",
        ),
        "timeline": (
            lambda: step_gantt(run.timelines),
            f"What every device of {cluster} and its network do during one step: {times}.",
        ),
        "timeline_block": (
            lambda: block_gantt(run.timelines, block),
            f"The same for block {block} alone, forward and backward.",
        ),
        "workload": (
            lambda: workload_per_device(run.timelines),
            f"Busy and idle time of every device of {cluster} in one step: {times}.",
        ),
        "solvers": (
            lambda: solver_comparison(run.comparison),
            "Objective and time of every solver: "
            + ", ".join(
                f"{row.solver} {row.status} in {quantity(row.solve_s, 's')}"
                for row in solver_rows(run.comparison)
            )
            + ".",
        ),
    }


def _render(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG, the same bytes each time."""
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "d2ft"}):
        figure.savefig(png, format="png", dpi=_PNG_DPI)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


def _write_bytes(path: Path, data: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def _data_uri(png: bytes, svg: bytes) -> str:
    data, kind = (svg, "svg+xml") if len(svg) <= _LARGEST_SVG_BYTES else (png, "png")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
