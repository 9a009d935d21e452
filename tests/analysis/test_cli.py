"""The command line: what it prints, and that a mistake is one line and exit code 2."""

import json
import subprocess
import sys

import pytest

CLUSTER = """
name: two
devices:
  - {name: a, compute_flops_per_s: 1e12, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
  - {name: b, compute_flops_per_s: 5e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
network:
  kind: explicit
  links: [{source: a, target: b, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}]
"""
SMALL = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--microbatch-size", "2"]


@pytest.fixture
def cluster(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture
def plan(d2ft, cluster, tmp_path):
    path = tmp_path / "plan.json"
    code, _, err = d2ft(
        "plan", "--cluster", cluster, *SMALL, "--budget-compute", 0.6, "--out", path
    )
    assert code == 0, err
    return path


def test_plan_then_simulate(d2ft, plan, tmp_path):
    code, out, _ = d2ft("simulate", plan, "--json", "--timeline", tmp_path / "t.csv")
    assert code == 0
    result = json.loads(out)
    assert result["plan"]["flops"] < result["dense"]["flops"]
    assert result["plan"]["step_s"] < result["dense"]["step_s"]
    assert [d["name"] for d in result["plan"]["devices"]] == ["a", "b"]
    assert (tmp_path / "t.csv").read_text().startswith("wave,direction,block,phase,resource")


def test_compare_writes_a_row_per_solver(d2ft, cluster, tmp_path):
    table = tmp_path / "c.csv"
    code, out, _ = d2ft(
        "compare", "--cluster", cluster, *SMALL, "--solvers", "two_stage,dp,mip", "--out", table,
        "--json",
    )  # fmt: skip
    assert code == 0
    rows = {row["solver"]: row for row in json.loads(out)["solvers"]}
    fewer = rows.pop("fewer_microbatches at equal step")
    assert fewer["predicted_step_s"] <= rows["dp"]["predicted_step_s"]
    assert set(rows) == {"two_stage", "dp", "mip"}
    assert rows["dp"]["status"] == "OPTIMAL"
    assert rows["dp"]["objective"] == pytest.approx(rows["mip"]["objective"], rel=1e-6)
    assert rows["two_stage"]["objective"] <= rows["dp"]["objective"] * (1 + 1e-9)
    assert table.read_text().count("\n") == 5


def cluster_with(old, new):
    def write(tmp_path):
        path = tmp_path / "wrong.yaml"
        assert old in CLUSTER
        path.write_text(CLUSTER.replace(old, new))
        return ["plan", "--cluster", path, *SMALL]

    return write


def plan_with(*options):
    def write(tmp_path):
        path = tmp_path / "cluster.yaml"
        path.write_text(CLUSTER)
        return ["plan", "--cluster", path, *SMALL, *options]

    return write


def with_scores(text):
    def write(tmp_path):
        (tmp_path / "scores.csv").write_text(text)
        return plan_with("--scores", tmp_path / "scores.csv")(tmp_path)

    return write


def with_plan(command, text):
    def write(tmp_path):
        (tmp_path / "wrong.json").write_text(text)
        return [command, tmp_path / "wrong.json"]

    return write


MISTAKES = {
    "missing field": (cluster_with("name: two\n", ""), "name is missing"),
    "missing device field": (
        cluster_with("{name: a, compute_flops_per_s: 1e12, ", "{name: a, "),
        "compute_flops_per_s",
    ),
    "negative bandwidth": (
        cluster_with("bandwidth_bytes_per_s: 1e9,", "bandwidth_bytes_per_s: -1e9,"),
        "bandwidth_bytes_per_s",
    ),
    "unknown device in a link": (cluster_with("target: b,", "target: c,"), "c"),
    "unreachable device": (
        cluster_with(
            "links: [{source: a, target: b, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}]",
            "links: []",
        ),
        "cannot be reached",
    ),
    "memory that cannot hold the model": (
        cluster_with("memory_bytes: 8 GB", "memory_bytes: 10 MB"),
        "of memory",
    ),
    "no cluster file": (lambda p: ["plan", "--cluster", p / "none.yaml", *SMALL], "none.yaml"),
    "heads not divided": (plan_with("--heads-per-subnet", "2"), "must divide the 3 heads"),
    "heads not numbers": (plan_with("--heads-per-subnet", "x"), "--heads-per-subnet is 'x'"),
    "budget of nothing": (plan_with("--budget-compute", "0"), "compute budget is 0"),
    "budget above one": (plan_with("--budget-comm", "1.5"), "communication budget is 1.5"),
    "unknown solver": (plan_with("--solver", "magic"), "'magic' is unknown"),
    "unknown model": (plan_with("--model", "vit_huge_99"), "'vit_huge_99'"),
    "image size": (plan_with("--image-size", "33"), "33 is not a multiple"),
    "too many waves": (plan_with("--waves", "9"), "number of waves is 9"),
    "scores with NaN": (
        with_scores(
            "subnet,microbatch,forward_score,backward_score\n"
            + "".join(f"{s},{i},1,{'nan' if s == 7 else 1}\n" for s in range(36) for i in range(5))
        ),
        "backward score of subnet 7, micro-batch 0 is nan",
    ),
    "scores of another size": (
        with_scores("subnet,microbatch,forward_score,backward_score\n0,0,1,1\n"),
        "has no line",
    ),
    "plan that is no JSON": (with_plan("simulate", '{"format": '), "is damaged"),
    "plan of another kind": (with_plan("simulate", "{}"), "is not a plan file"),
    "newer plan": (
        with_plan("simulate", '{"format": "d2ft-plan", "version": 99}'),
        "is a plan of version 99",
    ),
    "no plan": (lambda p: ["simulate", p / "none.json"], "none.json"),
    "no run directory": (lambda p: ["report", p / "none"], "is not a run directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(d2ft, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, message = MISTAKES[mistake]
    command = arguments(tmp_path)
    before = set(tmp_path.iterdir())
    code, out, err = d2ft(*command)
    assert code == 2
    assert out == ""
    assert err.startswith("d2ft: ")
    assert err.count("\n") == 1
    assert message in err
    assert set(tmp_path.iterdir()) == before


def test_a_plan_is_refused_once_changed_or_cut(d2ft, plan):
    whole = plan.read_text()
    for damaged in (whole.replace('"FFF', '"OFF', 1), whole[: len(whole) // 2]):
        assert damaged != whole
        plan.write_text(damaged)
        code, _, err = d2ft("simulate", plan)
        assert code == 2
        assert f"{plan}: is damaged" in err


def test_help_and_planning_need_no_torch(cluster, tmp_path):
    out = tmp_path / "p.json"
    code = (
        "import sys; from analysis import cli; sys.argv = ['d2ft'] + sys.argv[1:]\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'timm', 'ortools', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for arguments in (["--help"], ["plan", "--cluster", cluster, *SMALL, "--out", out]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
