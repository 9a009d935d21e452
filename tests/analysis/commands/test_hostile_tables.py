"""Tables and journals of sweeps with cells of another kind: one line with file, line and column."""

import contextlib
import csv
import io
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import cli
from analysis.sweeping.sweep_journal import Journal
from analysis.sweeping.sweep_point import COLUMNS
from analysis.sweeping.sweep_row import SweepRow
from analysis.sweeping.sweep_table import load_table
from d2ft_sched.errors import InputError

CLUSTER = """
name: "2024"
devices:
  - {name: NA, compute_flops_per_s: 1e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e10}
  - {name: "null", compute_flops_per_s: 6e10, memory_bytes: 8 GB,
     memory_bandwidth_bytes_per_s: 1e10}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run(*arguments: object) -> tuple[int, str]:
    err = io.StringIO()
    with (
        patch.object(sys, "argv", ["d2ft", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return int(ended.value.code or 0), err.getvalue()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "c.yaml").write_text(CLUSTER)
    code, err = run(
        "sweep", "--cluster", folder / "c.yaml", "--model", "vit_tiny_patch16_224", "--image-size",
        32, "--minibatch-size", 6, "--budget-compute", "0.4,1", "--jobs", 1, "--no-plots",
        "--out", folder,
    )  # fmt: skip
    assert code == 0, err
    return folder


def test_the_schema_has_the_columns() -> None:
    assert tuple(SweepRow.model_fields) == COLUMNS


def test_what_a_sweep_wrote_is_read(sweep: Path) -> None:
    table = load_table(sweep / "sweep.csv")
    assert table["cluster"].tolist() == ["2024", "2024"]
    assert table["heads_per_subnet"].tolist() == ["1", "1"]
    assert len(Journal(sweep / "points.jsonl").rows) == 2


@FUZZ
@given(
    column=st.sampled_from([*COLUMNS, "is_pareto"]),
    cell=st.sampled_from(["", "soon", "nan", "inf", "-1", "0", "[]", "{}", "1_0", "1e400", "True"])
    | st.text(max_size=5),
)
def test_a_table_is_read_or_refused_with_line_and_column(
    sweep: Path, column: str, cell: str
) -> None:
    rows = list(csv.reader((sweep / "sweep.csv").read_text().splitlines()))
    rows[2][rows[0].index(column)] = cell
    path = sweep / "odd" / "sweep.csv"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(sweep / "provenance.json", path.parent)
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows(rows)
    with contextlib.suppress(InputError):
        load_table(path)
        return
    for command in (
        ["plot", "tradeoff", path, "--out", path.with_name("x.svg")],
        ["report", path.parent],
    ):
        code, err = run(*command)
        assert (code, err.startswith(f"d2ft: {path}: line ")) == (2, True)


@FUZZ
@given(
    column=st.sampled_from([*COLUMNS, "key"]),
    cell=st.none() | st.booleans() | st.text(max_size=4) | st.just([]) | st.just({})
    | st.sampled_from([-1, 0, 10**30, float("inf"), float("nan"), "0.5"]),
)  # fmt: skip
def test_a_journal_is_read_or_refused_with_line_and_column(
    sweep: Path, column: str, cell: object
) -> None:
    header, first, second = (sweep / "points.jsonl").read_text().splitlines()
    row = json.loads(second)
    row[column] = cell
    path = sweep / "odd.jsonl"
    path.write_text("\n".join([header, first, json.dumps(row), ""]))
    with contextlib.suppress(InputError):
        Journal(path)
        return
    with pytest.raises(InputError, match=rf"odd.jsonl: line 3: {column} "):
        Journal(path)


def test_pictures_and_reports_take_every_table_that_is_read(sweep: Path) -> None:
    """Zeros where a plan may have them."""
    rows = list(csv.reader((sweep / "sweep.csv").read_text().splitlines()))
    for column in ("workload_cv", "exchange_bytes", "flops", "compute_fraction", "objective"):
        rows[1][rows[0].index(column)] = "0"
    path = sweep / "zeros" / "sweep.csv"
    path.parent.mkdir()
    shutil.copy(sweep / "provenance.json", path.parent)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for picture in ("tradeoff", "step-time"):
        assert run("plot", picture, path, "--out", path.with_name("x.svg")) == (0, "")
    assert run("report", path.parent)[0] == 0
