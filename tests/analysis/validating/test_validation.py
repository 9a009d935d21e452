"""Predictions beside measurements: the tables, and the command on one device."""

import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.console.progress import TerminalProgress
from analysis.finetuning.rank_hosts import note_hosts
from analysis.planning.model_shapes import model_shape
from analysis.plots.validation import validation_scatter
from analysis.validating.plans_tried import (
    Measured,
    agreement,
    direction_seconds,
    phase_table,
    rank_phase_seconds,
    validation_schedules,
    validation_table,
)
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.shape_file import load_model_shape
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from rank_processes import d2ft_on_ranks
from runtime.ranks.agreement import ALONE
from sim.step import simulate_step

SHAPE = load_model_shape("vit_tiny_patch16_224", image_size=32, num_classes=10)
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (2,) * 5)
PLACEMENT = place_round_robin(WORKLOAD.partition, 5, 3)
DEVICES = tuple(Device(f"d{i}", 1e11 / (i + 1), 10**10, 1e10) for i in range(3))
CLUSTER = Cluster("c", DEVICES, tuple(Link(d.name, "s", 1e8, 1e-4) for d in DEVICES), ("s",))
CLUSTER_OF = """
name: some
devices:
{devices}
network: {{kind: star, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}}
"""
DEVICE = (
    "  - {{name: {}, compute_flops_per_s: 5e10, memory_bytes: 8 GB, "
    "memory_bandwidth_bytes_per_s: 1e10}}"
)


def cluster_text(*names):
    return CLUSTER_OF.format(devices="\n".join(DEVICE.format(name) for name in names))


@pytest.fixture(scope="module")
def schedules():
    return validation_schedules(WORKLOAD, CLUSTER, PLACEMENT, 0)


@pytest.fixture(scope="module")
def predictions(schedules):
    return {
        name: simulate_step(WORKLOAD, CLUSTER, PLACEMENT, schedule)
        for name, schedule in schedules.items()
    }


def as_measured(prediction, factor):
    return Measured(
        step_s=factor * prediction.step_s,
        step_spread_s=0.0,
        phase_s={k: factor * v for k, v in rank_phase_seconds(prediction).items()},
        flops=prediction.flops,
        pair_bytes=prediction.pair_bytes,
        peak_memory_bytes=np.array(prediction.peak_memory_bytes, dtype=float),
    )


def test_schedules_are_many_and_differ(schedules):
    assert len(schedules) >= 12
    assert len({s.astype(np.int8).tobytes() for s in schedules.values()}) == len(schedules)
    assert (schedules["dense"] == Operation.FULL).all()


def test_a_rank_s_phases_add_up_to_the_step(predictions):
    for prediction in predictions.values():
        phases = rank_phase_seconds(prediction)
        total = sum(phases.values())
        slack = [p for p in prediction.phases if p.name == "optimizer"][-1]
        waited = slack.duration_s - slack.device_s
        np.testing.assert_allclose(total + waited, prediction.step_s, rtol=1e-9)


def test_errors_and_order_of_a_model_that_is_always_a_tenth_low(predictions):
    predicted = predictions
    measured = {name: as_measured(p, 1 / 0.9) for name, p in predicted.items()}
    table = validation_table(predicted, measured)
    np.testing.assert_allclose(table["error_step_s"], -0.1)
    assert (table[["error_flops", "error_bytes", "error_peak_memory_bytes"]] == 0).all(axis=None)
    steps = agreement(table, "step_s")
    assert steps.mean == pytest.approx(0.1)
    assert steps.kendall_tau == pytest.approx(1.0)
    phases = phase_table({n: rank_phase_seconds(p) for n, p in predicted.items()}, measured)
    assert set(phases["phase"]) >= {"trunk", "dispatch", "lanes", "combine", "optimizer"}
    np.testing.assert_allclose(phases["predicted_s"], 0.9 * phases["measured_s"], rtol=1e-9)
    assert len(validation_scatter(table).axes) == 3


def test_directions_on_one_device_add_up_to_the_step():
    alone = place_round_robin(WORKLOAD.partition, 5, 1)
    cluster = Cluster("one", DEVICES[:1])
    dense = validation_schedules(WORKLOAD, cluster, alone, 0)["dense"]
    prediction = simulate_step(WORKLOAD, cluster, alone, dense)
    assert sum(direction_seconds(prediction).values())[0] == pytest.approx(prediction.step_s)


PRESET = "name: one\ndevices: [{name: a, preset: rtx-3090}]\n"
FLOAT32, BFLOAT16 = ("--precision", "float32"), ("--precision", "bfloat16")
ADAPTERS = ("--lora-rank", 4)


def dense_step_s(path, options):
    """On the device of a file, with its figures of the precision asked for."""
    precision = "bfloat16" if options == BFLOAT16 else "float32"
    shape = model_shape("test_vit", image_size=32, num_classes=10)
    lora = Lora(4, 4.0) if options == ADAPTERS else None
    partition = partition_by_heads(shape, 1)
    workload = Workload(shape, partition, (1,) * 3, ELEMENT_BYTES[precision], lora=lora)
    cluster = load_cluster(path, precision)
    dense = uniform_schedule(workload.num_subnets, 3, Operation.FULL)
    return simulate_step(workload, cluster, place_round_robin(partition, 3, 1), dense).step_s


@pytest.mark.parametrize("options", [FLOAT32, BFLOAT16, ADAPTERS])
def test_the_command_counts_what_was_predicted(d2ft, tmp_path, options):
    (tmp_path / "one.yaml").write_text(PRESET)
    code, out, err = d2ft(
        "validate", "--cluster", tmp_path / "one.yaml", "--model", "test_vit",
        "--image-size", 32, "--microbatch-size", 1, "--microbatches", 3, "--repeats", 1,
        "--device", "cpu", *options, "--out", tmp_path / "v", "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    table = pd.read_csv(tmp_path / "v/plans.csv")
    assert len(table) == len(result["plans"]) >= 5
    is_counted = pd.Series(True, index=table.index)
    if options == ADAPTERS:  # alone a step that trains no subnet spares the classifier's dX
        is_counted = ~table["plan"].isin(["all FORWARD_ONLY", "all SHORTCUT"])
        assert (table["error_flops"].abs() < 0.01).all()
    assert (table["error_flops"][is_counted] == 0).all()
    assert (table["error_peak_memory_bytes"].abs() < 0.05).all()
    expected_s = dense_step_s(tmp_path / "one.yaml", options)
    assert result["plans"][0]["predicted_step_s"] == pytest.approx(expected_s)
    assert (tmp_path / "v/predicted_measured.png").stat().st_size > 5000
    (untouched,) = result["baselines"]
    assert untouched["plan"] == "untouched model"
    assert untouched["error_flops"] == 0


@pytest.mark.parametrize(
    ("model", "samples", "options"),
    [("test_vit", 64, FLOAT32), ("vit_tiny_patch16_224", 1, BFLOAT16), ("test_vit", 1, ADAPTERS)],
)
def test_ranks_run_the_plans_and_dense_baselines(tmp_path, model, samples, options):
    (tmp_path / "two.yaml").write_text(cluster_text("a", "b"))
    d2ft_on_ranks(
        2, tmp_path, "validate", "--cluster", tmp_path / "two.yaml", "--model", model,
        "--image-size", 32, "--microbatch-size", samples, "--microbatches", 2, "--repeats", 1,
        "--device", "cpu", *options, "--out", tmp_path / "v",
    )  # fmt: skip
    plans, baselines = (pd.read_csv(tmp_path / f"v/{name}.csv") for name in ("plans", "baselines"))
    for table in (plans, baselines):
        assert (table["error_flops"] == 0).all()
        assert (table["predicted_bytes"] == table["measured_bytes"]).all()
    # Of a small model messages on their way are much of what many samples keep; they are counted at
    # the peak, whenever they are there.
    off = plans.set_index("plan")["error_peak_memory_bytes"].abs()
    assert (off < (0.05 if samples == 1 else 0.12)).all()
    assert off["dense"] < (0.05 if samples == 1 else 0.02)
    # Autocast keeps copies of weights in bfloat16, which a dense baseline is not charged with.
    assert (baselines["error_peak_memory_bytes"].abs() < 0.15).all()
    assert plans["plan"].str.startswith("dp, step").any()
    dense = ["tensor parallel, ring all-reduce", "untouched model, a alone"]
    assert baselines["plan"].tolist() == dense[options == ADAPTERS :]


def test_ranks_that_are_too_many_say_so_once(tmp_path):
    (tmp_path / "two.yaml").write_text(cluster_text("a", "b"))
    given = ["--cluster", tmp_path / "two.yaml", "--device", "cpu", "--out", tmp_path / "v"]
    with pytest.raises(AssertionError, match=r"two\.yaml: has 2 devices and this job 3 ranks"):
        d2ft_on_ranks(3, tmp_path, "validate", *given)
    assert "has 2 devices" not in (tmp_path / "stderr-1").read_text()
    assert "has 2 devices" not in (tmp_path / "stderr-2").read_text()


def test_devices_of_several_hosts_are_named_with_them(monkeypatch):
    monkeypatch.setattr(
        "analysis.finetuning.rank_hosts.gather_texts", lambda *_: ["left", "right", "right"]
    )
    console = Console(file=StringIO(), width=200)
    note_hosts(ALONE, [d.name for d in CLUSTER.devices], TerminalProgress(console))
    said = "Devices: d0 on left (rank 0), d1 on right (rank 1), d2 on right (rank 2)\n"
    assert console.file.getvalue() == said


def test_several_devices_need_as_many_ranks(d2ft, tmp_path):
    (tmp_path / "two.yaml").write_text(cluster_text("a", "b"))
    code, _, err = d2ft("validate", "--cluster", tmp_path / "two.yaml", "--out", tmp_path / "v")
    assert code == 2
    assert "has 2 devices and this job one rank" in err
    assert not (tmp_path / "v").exists()
