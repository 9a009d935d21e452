"""What is said of savings, errors and chance."""

import math

import numpy as np
import pytest

from analysis.reporting.headline import answers
from analysis.results.run_dir import Run
from analysis.results.savings import (
    Pair,
    accuracy_interval,
    accuracy_range,
    cluster_savings,
    device_pairs,
    device_savings,
    rank_correlation,
    worst_error,
)
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.deployment import deploy
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from sim.dense.device_alone import device_alone
from sim.step import simulate_step


def test_savings_are_fractions_of_dense(run: Run) -> None:
    measured = run.measurement.steps
    saving = device_savings(run)["step_s"]
    assert saving.measured == pytest.approx(1 - measured["plan"].step_s / measured["dense"].step_s)
    assert saving.predicted == pytest.approx(
        1 - run.prediction.this_device["plan"].step_s / run.prediction.this_device["dense"].step_s
    )
    assert saving.error == pytest.approx(saving.predicted - saving.measured)
    assert device_savings(run)["flops"].error == pytest.approx(0.0)


def test_one_device_exchanges_nothing_and_so_saves_no_bytes(run: Run) -> None:
    saving = device_savings(run)["exchange_bytes"]
    assert (saving.dense.predicted, saving.dense.measured) == (0.0, 0.0)
    assert saving.predicted is saving.measured is saving.error is saving.dense.error is None


def test_the_cluster_is_only_predicted(run: Run) -> None:
    for saving in cluster_savings(run.prediction.cluster).values():
        assert saving.measured is None
        assert saving.error is None
    memory = cluster_savings(run.prediction.cluster)["peak_memory_bytes"].dense.predicted
    devices = run.prediction.cluster["dense"].devices
    assert memory == max(d.peak_memory_bytes for d in devices)


def test_errors_are_relative_to_what_was_measured(run: Run) -> None:
    assert worst_error(device_pairs(run, "step_s")) == pytest.approx(1 - 1 / 1.06)
    assert worst_error({"one": Pair(3.0, 0.0)}) is None


def test_rank_correlation_is_kendalls_tau() -> None:
    pairs = {str(i): Pair(p, m) for i, (p, m) in enumerate([(1, 1), (2, 3), (3, 2), (4, 4)])}
    assert rank_correlation(pairs) == pytest.approx(4 / 6)
    assert rank_correlation({"a": Pair(1, 1), "b": Pair(2, 2)}) is None
    assert rank_correlation({str(i): Pair(1.0, float(i)) for i in range(4)}) is None


def test_the_interval_covers_chance() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.binomial(500, [[0.9], [0.9]], size=(2, 4000)) / 500
    half_width = accuracy_interval(0.9, 0.9, 500)
    assert np.mean(np.abs(first - second) <= half_width) == pytest.approx(0.95, abs=0.015)


def test_one_device_alone_is_simulated_where_its_memory_suffices(run: Run) -> None:
    alone = device_alone(run.plan.workload, run.plan.cluster.devices[0])
    assert alone.fits
    one = place_round_robin(run.plan.workload.partition, run.plan.workload.num_microbatches, 1)
    dense = np.full_like(run.plan.schedule, Operation.FULL)
    cluster = Cluster("one", run.plan.cluster.devices[:1])
    placed = simulate_step(deploy(run.plan.workload, cluster, one), dense)
    assert alone.step_s == pytest.approx(placed.step_s)
    small = run.plan.cluster.devices[0].scaled(memory=1e-6)
    assert not device_alone(run.plan.workload, small).fits


def test_the_three_answers_say_what_was_predicted_and_what_measured(run: Run) -> None:
    saving, certainty, accuracy = answers(run)
    assert "predicted" in saving.basis
    assert any(fact.startswith("Measured on one device") for fact in saving.facts)
    assert "not on the cluster" in certainty.basis
    assert "5.7" in certainty.figure
    assert "not calibrated" in " ".join(certainty.facts)
    assert accuracy.figure == "−0.7 ± 2.9\N{NO-BREAK SPACE}points"
    assert "one seed" in " ".join(accuracy.facts)
    assert "within that" in " ".join(accuracy.facts)
    assert math.isclose(accuracy_interval(0.945, 0.938, 500), 0.0293, abs_tol=2e-4)


def test_few_samples_are_not_sure_even_where_all_are_right():
    assert accuracy_interval(1.0, 1.0, 12) > 0.1
    low, high = accuracy_range(1.0, 12)
    assert low == pytest.approx(12 / (12 + 1.96**2), abs=1e-3)
    assert high == 1.0
    low, high = accuracy_range(0.9, 100_000)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.9 * 0.1 / 1e5), rel=0.01)
