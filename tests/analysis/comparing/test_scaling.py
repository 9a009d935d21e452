"""Comparisons over sizes: instances, rows, pictures and the command."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import cli
from analysis.comparing.scaling import (
    Case,
    run_cases,
    scaling_cases,
    scaling_problem,
    scaling_table,
    simulated_step_s,
    solve_case,
)
from analysis.plots.solver_scaling import save_scaling_plots
from d2ft_sched.errors import InputError
from d2ft_sched.schedule.operations import Operation

CASE = Case("dp", 12, 6, 0.5, 3, 10.0)


def test_the_instance_is_tight_where_it_says():
    problem = scaling_problem(CASE)
    dense = problem.spending(np.full((12, 6), Operation.FULL, dtype=np.int8))
    spent = np.minimum(problem.capacity, dense).sum(axis=0) / dense.sum(axis=0)
    assert spent[1] == pytest.approx(0.75)
    assert spent[2] == pytest.approx(0.75)
    seconds = dense[:, 0]
    assert seconds.max() / seconds.min() <= 10
    flops = dense[:, 0] / (dense[:, 0] / dense[0, 0])
    assert np.ptp(flops) == pytest.approx(0)
    allowed = np.minimum(problem.capacity[:, 0], seconds) / seconds
    assert allowed.mean() == pytest.approx(0.5)


def test_the_simulated_step_falls_with_the_schedule():
    dense = np.full((12, 6), Operation.FULL, dtype=np.int8)
    assert simulated_step_s(CASE, dense) > simulated_step_s(CASE, np.minimum(dense, 1)) > 0


def test_solvers_agree_on_the_instance():
    rows = [solve_case(replace(CASE, solver=name)) for name in ("dp", "highs", "random")]
    table = scaling_table(rows)
    exact = table[table["status"] == "OPTIMAL"]
    assert set(exact["solver"]) == {"dp", "highs"}
    assert exact["objective"].iloc[0] == pytest.approx(exact["objective"].iloc[1])
    assert (exact["below_best_bound"] < 1e-9).all()
    assert table[table["solver"] == "random"]["below_best_bound"].item() > 0.01
    assert table["retained_score"].between(0, 1).all()
    assert (table["simulated_step_s"] > 0).all()


def test_a_process_of_its_own_gives_the_same_row():
    here, there = solve_case(CASE), next(run_cases([CASE]))
    assert there["objective"] == here["objective"]
    assert there["extra_memory_bytes"] >= 0


def test_models_too_large_to_build_are_named():
    row = next(run_cases([replace(CASE, solver="scip", num_devices=100_000)]))
    assert row["status"] == "NOT_RUN"
    assert "600000 items is not built" in row["method"]
    assert pd.isna(scaling_table([row])["objective"].item())


@pytest.mark.parametrize(
    ("solvers", "sizes", "tightness", "message"),
    [
        (["nope"], [10], [0.5], "solver 'nope' is unknown"),
        (["dp"], [0], [0.5], "a size is 0"),
        (["dp"], [10], [1.5], "a tightness is 1.5"),
    ],
)
def test_wrong_requests_are_refused(solvers, sizes, tightness, message):
    with pytest.raises(InputError, match=message):
        scaling_cases(solvers, sizes, tightness, num_microbatches=4, seed=0, time_limit_s=1)


def test_a_picture_per_tightness(tmp_path):
    cases = [replace(CASE, num_devices=n, tightness=t) for n in (4, 8) for t in (0.4, 0.8)]
    table = scaling_table([solve_case(case) for case in cases])
    written = save_scaling_plots(table, tmp_path / "plots")
    assert [p.name for p in written] == [
        f"solvers_{tightness}.{kind}" for tightness in ("0.4", "0.8") for kind in ("png", "svg")
    ]
    for path in written:
        content = path.read_bytes()
        is_picture = content[:4] == b"\x89PNG" if path.suffix == ".png" else b"<svg" in content
        assert is_picture, path.name


def test_the_command_writes_csv_and_json(monkeypatch, capsys, tmp_path):
    table = tmp_path / "t.csv"
    arguments = ["compare", "--sizes", "3,5", "--solvers", "dp,random", "--out", table, "--json"]
    monkeypatch.setattr(sys, "argv", ["d2ft", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert len(json.loads(capsys.readouterr().out)["solvers"]) == 4
    assert table.read_text().count("\n") == 5


@pytest.mark.parametrize(
    "arguments", [[], ["--sizes", "3", "--cluster", "c.yaml"], ["--sizes", "x"]]
)
def test_the_command_needs_one_question(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["d2ft", "compare", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
