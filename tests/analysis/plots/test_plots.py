"""Pictures show the numbers they were given, with units, and no text lies upon another."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.console.formatting import percent
from analysis.names.placement_names import PlacementName
from analysis.plots.cluster_graph import cluster_topology
from analysis.plots.device_workload import busy_seconds, network_seconds, workload_per_device
from analysis.plots.schedule_heatmap import schedule_heatmap
from analysis.plots.scores_heatmap import score_heatmap
from analysis.plots.solvers import solver_comparison
from analysis.plots.step_budget import step_time_against_budget
from analysis.plots.style import PALE, SEQUENTIAL, WORK_COLOURS
from analysis.plots.timeline import block_gantt, step_gantt
from analysis.plots.tradeoff import compute_communication_tradeoff
from analysis.plots.training.accuracy import accuracy_curves
from analysis.plots.training.method_accuracy import accuracy_ranked
from analysis.plots.validation import predicted_against_measured
from analysis.plots.work_kinds import work_kinds
from analysis.results.run_dir import Run
from analysis.results.savings import QUANTITIES, Pair, device_pairs
from analysis.sweeping.run_sweep import Sweep
from analysis.sweeping.sweep_grid import Axes, Common, grid_points
from analysis.sweeping.sweep_plots import one_of
from analysis.sweeping.sweep_table import CHOSEN, GIVEN
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.deployment import deploy
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape import vision_transformer_shape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.placement import place_round_robin
from sim.questions.utilisation import device_utilisation, link_utilisation
from sim.step import simulate_plan, simulate_step

_tables: dict[int, pd.DataFrame] = {}


def _scores(run: Run) -> Scores:
    rng = np.random.default_rng(1)
    size = (run.plan.workload.num_subnets, run.plan.workload.num_microbatches)
    return Scores(rng.gamma(2.0, size=size), rng.gamma(2.0, size=size))


def _sweep(run: Run) -> pd.DataFrame:
    """A sweep of the run's model on its cluster."""
    if id(run) not in _tables:
        axes = Axes(
            clusters=[run.plan.cluster], bandwidth_scales=[0.1, 1.0, 100.0], compute_scales=[1.0],
            heads_per_subnet=["1"], num_microbatches=[5], compute=[0.2, 0.4, 0.6, 0.8, 1.0],
            communication=[0.4, 0.7, 1.0], memory=[1.0], solvers=["dp"],
        )  # fmt: skip
        common = Common(run.plan.workload.shape, 160, placement=PlacementName.ROUND_ROBIN)
        with tempfile.TemporaryDirectory() as folder:
            sweep = Sweep(grid_points(axes, common), Path(folder))
            sweep.run(jobs=1)
            _tables[id(run)] = sweep.save()[0]
    return _tables[id(run)]


SOLVERS = pd.DataFrame(
    {
        "solver": ["two_stage", "dp", "mip"], "status": ["FEASIBLE", "OPTIMAL", "OPTIMAL"],
        "objective": [90.0, 100.0, 100.0], "upper_bound": [np.nan, 100.0, 100.0],
        "build_s": [0.001, 0.002, 0.2], "solve_s": [0.001, 0.01, 1.5],
    }
)  # fmt: skip
PICTURES: dict[str, Callable[[Run], Figure]] = {
    "accuracy": lambda run: accuracy_curves(run.measurement.training, 500),
    "schedule": lambda run: schedule_heatmap(run.plan),
    "solvers": lambda run: solver_comparison(SOLVERS),
    "step": lambda run: step_gantt(run.timelines),
    "block": lambda run: block_gantt(run.timelines, 2),
    "workload": lambda run: workload_per_device(run.timelines),
    "topology": lambda run: cluster_topology(simulate_plan(run.plan)),
    "scores": lambda run: score_heatmap(_scores(run), run.plan.workload.partition),
    "tradeoff": lambda run: compute_communication_tradeoff(one_of(_sweep(run), GIVEN)),
    "step time": lambda run: step_time_against_budget(one_of(_sweep(run), CHOSEN)),
    "validation": lambda run: predicted_against_measured(
        [(title, unit, device_pairs(run, name)) for title, name, unit in QUANTITIES[:2]]
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_number_axis_names_its_unit(run: Run, name: str) -> None:
    for axes in PICTURES[name](run).axes:
        assert axes.has_data()
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [t.get_text() for t in axis.get_ticklabels()]
            has_numbers = any(t.replace("−", "").replace(".", "").isdigit() for t in ticks)
            label = axis.get_label().get_text()
            assert not has_numbers or "(" in label or "block" in label


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_overlaps_another_or_leaves_the_picture(run: Run, name: str) -> None:
    _check_texts(PICTURES[name](run))


@pytest.mark.parametrize("kind", ["alone", "ring", "tree", "fat_tree"])
def test_names_in_clusters_of_every_kind_are_apart(run: Run, kind: str) -> None:
    cable = topology.Cable(1e9, 1e-5)
    names = [f"gpu-{i}" for i in range({"alone": 1, "ring": 12, "tree": 16, "fat_tree": 16}[kind])]
    network = {
        "alone": lambda: topology.ring(names, cable),
        "ring": lambda: topology.ring(names, cable),
        "tree": lambda: topology.tree(names, 4, cable, 2.0),
        "fat_tree": lambda: topology.fat_tree(names, 4, cable),
    }
    built = network[kind]()
    devices = tuple(Device(name, 1e12, 10**10, 1e11) for name in names)
    cluster = Cluster(kind, devices, built.links, built.switches)
    shape = run.plan.workload.shape
    workload = Workload(shape, partition_by_heads(shape, 1), (2,) * 4)
    placement = place_round_robin(workload.partition, 4, len(names))
    schedule = np.full((workload.num_subnets, 4), 2, dtype=np.int8)
    _check_texts(cluster_topology(simulate_step(deploy(workload, cluster, placement), schedule)))


def test_a_legend_of_many_runs_fits() -> None:
    pairs = {f"compute {100 - 10 * i} %": Pair(9.0 - i, 9.5 - i) for i in range(7)}
    _check_texts(predicted_against_measured([("Step time", "s", pairs), ("FLOPs", "FLOP", pairs)]))


def _check_texts(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    beyond = _labels_beyond_their_axis(figure)
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in beyond
    ]
    assert len(boxes) > 3
    for i, (first, box) in enumerate(boxes):
        assert figure.bbox.padded(1).contains(box.x0, box.y0), first
        assert figure.bbox.padded(1).contains(box.x1, box.y1), first
        for second, other in boxes[i + 1 :]:
            assert not box.padded(-1).overlaps(other.padded(-1)), (first, second)


def _labels_beyond_their_axis(figure: Figure) -> set[Text]:
    """Tick labels outside the limits exist but are not drawn."""
    labels = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not min(limits) <= tick.get_loc() <= max(limits):
                    labels |= {tick.label1, tick.label2}
    return labels


def test_the_heat_map_is_the_schedule(run: Run) -> None:
    image = schedule_heatmap(run.plan).axes[0].images[0].get_array()
    device = np.array(run.plan.placement.subnet_device)
    order = np.argsort(device, kind="stable")
    np.testing.assert_array_equal(image, run.plan.schedule[order].T)


def test_bars_of_the_gantt_chart_are_the_busy_seconds(run: Run) -> None:
    figure = step_gantt(run.timelines)
    longest_s = max(float(table["end_s"].max()) for table in run.timelines.values())
    for axes, name in zip(figure.axes, run.timelines, strict=True):
        labels = [t.get_text() for t in axes.get_yticklabels()]
        drawn = dict.fromkeys(labels, 0.0)
        num_bars = dict.fromkeys(labels, 0)
        for collection in axes.collections:
            if _colour(collection) != PALE:
                for path in collection.get_paths():
                    box = path.get_extents()
                    label = labels[round((box.y0 + box.y1) / 2)]
                    drawn[label] += box.width / 1e3
                    num_bars[label] += 1
        for device in run.prediction.cluster[name].devices:
            added = drawn[device.name] - device.busy_s
            assert -1e-9 <= added <= num_bars[device.name] * longest_s / 4000


def _colour(collection) -> str:  # type: ignore[no-untyped-def]
    red, green, blue, _ = (round(255 * c) for c in collection.get_facecolor()[0])
    return f"#{red:02X}{green:02X}{blue:02X}"


def test_waiting_is_never_merged_away() -> None:
    starts = np.arange(400) / 400
    timeline = pd.DataFrame(
        {
            "wave": 0, "direction": "forward", "block": 0, "phase": "mlp lanes",
            "resource": "slow", "start_s": starts, "end_s": starts + 0.5 / 400, "bytes": 0.0,
        }
    )  # fmt: skip
    axes = step_gantt({"dense": timeline}).axes[0]
    lanes = [c for c in axes.collections if _colour(c) == WORK_COLOURS["forward lanes"].upper()]
    width = sum(p.get_extents().width for c in lanes for p in c.get_paths())
    assert width == pytest.approx(500.0, rel=1e-6)


def test_workload_bars_are_as_long_as_the_step(run: Run) -> None:
    for name, timeline in run.timelines.items():
        busy = busy_seconds(timeline).sum(axis=1)
        for device in run.prediction.cluster[name].devices:
            assert busy[device.name] == pytest.approx(device.busy_s)
    left, right = workload_per_device(run.timelines).axes
    ends: dict[float, float] = {}
    for bar in right.patches:
        row = round(bar.get_y() + bar.get_height() / 2, 6)
        ends[row] = max(ends.get(row, 0.0), bar.get_x() + bar.get_width())
    steps_ms = [1e3 * run.prediction.cluster[name].step_s for name in run.timelines]
    num_devices = len(run.plan.cluster.devices)
    assert [ends[row] for row in sorted(ends)] == pytest.approx(steps_ms * num_devices)
    factor = 1e6 if "µs" in left.get_xlabel() else 1e3
    longest = max(bar.get_x() + bar.get_width() for bar in left.patches)
    assert longest == pytest.approx(
        factor * max(d.busy_s for p in run.prediction.cluster.values() for d in p.devices)
    )
    messages = [bar for bar in right.patches if bar.get_hatch() == "...."]
    assert [bar.get_width() for bar in messages[::num_devices]] == pytest.approx(
        [1e3 * run.prediction.cluster[name].exchange_s for name in run.timelines]
    )


def test_messages_that_devices_compute_beside_are_no_waiting() -> None:
    timeline = pd.DataFrame(
        [("a", 0.0, 4.0), ("b", 0.0, 3.0), ("network", 1.0, 3.5), ("network", 2.0, 6.0)],
        columns=["resource", "start_s", "end_s"],
    )
    assert network_seconds(timeline) == pytest.approx(2.0)


def test_every_row_of_a_timeline_has_a_kind_with_a_colour(run: Run) -> None:
    for timeline in run.timelines.values():
        kinds = set(work_kinds(timeline))
        assert kinds == {
            "forward lanes",
            "backward lanes",
            "trunk",
            "optimizer",
            "messages",
        } & set(WORK_COLOURS)


def test_accuracy_is_drawn_from_before_training_on(run: Run) -> None:
    by_epoch, by_flops = accuracy_curves(run.measurement.training, 500).axes
    for axes in (by_epoch, by_flops):
        curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
        for line, training in zip(curves, run.measurement.training.values(), strict=True):
            expected = [training.test_accuracy_before, *(e.test_accuracy for e in training.epochs)]
            np.testing.assert_allclose(line.get_ydata(), 100 * np.array(expected))


def test_methods_are_ranked_by_accuracy_beside_their_compute_and_the_dense_run() -> None:
    rng = np.random.default_rng(0)
    summary = pd.DataFrame(
        {
            "method": [f"a method of a long name, number {i}" for i in range(40)],
            "budget": ["dense", *["60 % compute", "50 % communication", "memory 0.7"] * 13],
            "top1_mean": rng.uniform(0.3, 0.9, 40),
            "top1_std": [*rng.uniform(0, 0.02, 39), np.nan],
            "compute_fraction": rng.uniform(0.3, 1, 40),
        }
    )
    figure = accuracy_ranked(summary, "dense")
    _check_texts(figure)
    axes, right = figure.axes
    best = summary.loc[summary["top1_mean"].idxmax()]
    assert axes.get_yticklabels()[-1].get_text() == best["method"]
    assert right.get_yticklabels()[-1].get_text() == percent(best["compute_fraction"])
    drawn = [line.get_xydata() for line in axes.lines if line.get_marker() not in ("|", "None")]
    points = np.concatenate(drawn)
    np.testing.assert_allclose(
        points[np.argsort(points[:, 1]), 0], 100 * np.sort(summary["top1_mean"])
    )
    np.testing.assert_allclose(axes.lines[0].get_xdata(), 100 * summary["top1_mean"][0])


def test_a_prediction_is_drawn_over_its_measurement(run: Run) -> None:
    pairs = device_pairs(run, "step_s")
    axes = predicted_against_measured([("Step time", "s", pairs)]).axes[0]
    drawn = np.concatenate(
        [c.get_offsets() for c in axes.collections if len(c.get_offsets()) and len(c.get_sizes())]
    )
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    ratio = drawn[:, 0] / drawn[:, 1]
    np.testing.assert_allclose(ratio, [p.measured / p.predicted for p in pairs.values()])


def test_solvers_without_a_bound_are_held_against_the_best() -> None:
    table = SOLVERS.assign(upper_bound=None)
    left = solver_comparison(table).axes[0]
    longest = max(bar.get_width() for bar in left.patches)
    assert longest == pytest.approx(100.0)
    assert left.get_xlabel() == "objective (% of the best objective)"


def test_colours_of_a_cluster_are_its_utilisation(run: Run) -> None:
    prediction = simulate_plan(run.plan)
    figure = cluster_topology(prediction)
    shown = figure.axes[1]  # colour bar
    assert shown.get_ylabel() == "busy (% of the step, predicted)"
    to_colour = matplotlib.colormaps[SEQUENTIAL]
    lines, nodes = figure.axes[0].collections[1:3]
    busy = device_utilisation(prediction)["busy_fraction"]
    np.testing.assert_allclose(nodes.get_facecolor(), to_colour(busy.to_numpy()), atol=0.01)
    links = link_utilisation(prediction)
    for link, colour in zip(prediction.cluster.links, lines.get_colors(), strict=True):
        own = links[links["link"].str.split(" -> ").map(set) == {link.source, link.target}]
        expected = own["busy_fraction"].max() if len(own) else 0.0
        np.testing.assert_allclose(colour, to_colour(expected), atol=0.01)


def test_scores_are_drawn_per_head_and_groups_share_theirs() -> None:
    shape = vision_transformer_shape(
        "small", image_size=28, patch_size=14, width=48, num_blocks=2, num_heads=3, mlp_hidden=96,
        num_classes=2,
    )  # fmt: skip
    partition = partition_by_heads(shape, [2, 1])
    backward = np.array([[1.0, 3.0], [2.0, 2.0], [0.0, 8.0], [4.0, 4.0]])
    figure = score_heatmap(Scores(np.ones((4, 2)), backward), partition)
    forward, mean, variation = (axes.images[0].get_array() for axes in figure.axes[:3])
    np.testing.assert_allclose(forward, np.ones((2, 3)))
    np.testing.assert_allclose(mean, np.array([[2, 2, 2], [4, 4, 4]]) / 3)
    np.testing.assert_allclose(variation, [[50, 50, 0], [100, 100, 0]])


def test_the_front_and_the_plans_of_a_tradeoff_are_the_tables(run: Run) -> None:
    table = one_of(_sweep(run), GIVEN)
    left, right = compute_communication_tradeoff(table).axes[:2]
    solved = table.dropna(subset=["retained_score_fraction"])
    offsets = left.collections[0].get_offsets()
    np.testing.assert_allclose(offsets[:, 0], 100 * solved["compute_fraction"])
    front = solved[solved["is_pareto"]].sort_values("predicted_step_s")
    drawn = right.collections[1].get_offsets()
    np.testing.assert_allclose(drawn[:, 1], 100 * front["retained_score_fraction"])
    labels = {text.get_text() for text in right.texts}
    assert labels <= {
        f"{100 * row['budget_compute_fraction']:.0f} / "
        f"{100 * row['budget_communication_fraction']:.0f} / 100"
        for row in front.to_dict("records")
    }


def test_filled_marks_are_where_messages_take_most_of_the_step(run: Run) -> None:
    table = one_of(_sweep(run), CHOSEN)
    axes = step_time_against_budget(table).axes[0]
    rows = table[table["budget_communication_fraction"] == 1]
    for marks, (_, own) in zip(axes.collections, rows.groupby("bandwidth_scale"), strict=False):
        is_white = (marks.get_facecolor()[:, :3] == 1).all(axis=1)
        waits = own["predicted_exchange_wait_s"] > 0.5 * own["predicted_step_s"]
        np.testing.assert_array_equal(is_white, ~waits.to_numpy())
    shares = rows["predicted_exchange_wait_s"] / rows["predicted_step_s"]
    assert shares.min() < 0.5 < shares.max()
