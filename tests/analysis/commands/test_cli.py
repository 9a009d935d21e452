"""The command line: what it prints and writes; `test_bad_input` has what it refuses."""

import json
import subprocess
import sys

import pytest

from d2ft_sched.plan.plan_file import load_plan
from sim.step import simulate_plan

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
        "plan",
        "--placement",
        "balanced",
        "--cluster",
        cluster,
        *SMALL,
        "--budget-compute",
        0.6,
        "--out",
        path,
    )
    assert code == 0, err
    return path


def test_plan_then_simulate(d2ft, plan, tmp_path):
    code, out, _ = d2ft("simulate", plan, "--json", "--timeline", tmp_path / "t.csv")
    assert code == 0
    result = json.loads(out)
    assert result["plan"]["flops"] < result["best_dense"]["flops"]
    assert result["plan"]["step_s"] < result["best_dense"]["step_s"]
    assert result["fewer_samples"]["flops"] <= result["plan"]["flops"]
    assert [d["name"] for d in result["plan"]["devices"]] == ["a", "b"]
    assert (tmp_path / "t.csv").read_text().startswith("wave,direction,block,phase,resource")


@pytest.mark.parametrize("placement", ["balanced", "every-device", "round-robin"])
@pytest.mark.parametrize("lora", [[], ["--lora-rank", 4]])
def test_a_target_is_held_against_the_dense_step_that_is_simulated(
    d2ft, cluster, tmp_path, placement, lora
):
    path, given = tmp_path / "plan.json", ["--placement", placement, *lora]
    code, printed, err = d2ft(
        "plan",
        "--placement",
        "balanced",
        "--cluster",
        cluster,
        *SMALL,
        *given,
        "--out",
        path,
        "--json",
    )
    assert code == 0, err
    _, simulated, _ = d2ft("simulate", path, "--json")
    result, planned = json.loads(simulated), json.loads(printed)
    (placed,) = (w for w in result["references"] if w["name"] == "placed as the plan is")
    assert planned["placed_dense_step_s"] == pytest.approx(placed["step_s"], rel=1e-9)
    for name in ("best_dense", "fewer_samples"):
        assert planned[f"{name}_step_s"] == pytest.approx(result[name]["step_s"], rel=1e-9)


def test_compare_writes_a_row_per_solver(d2ft, cluster, tmp_path):
    table = tmp_path / "c.csv"
    code, out, _ = d2ft(
        "compare", "--cluster", cluster, *SMALL, "--solvers", "two_stage,dp,mip", "--out", table,
        "--json",
    )  # fmt: skip
    assert code == 0
    result = json.loads(out)
    rows = {row["solver"]: row for row in result["solvers"]}
    fewer = rows.pop("fewer samples, same compute")
    assert fewer["compute_fraction"] <= rows["dp"]["compute_fraction"]
    assert fewer["predicted_step_s"] == result["fewer_samples"]["dense_step_s"]
    assert fewer["objective"] == pytest.approx(fewer["compute_fraction"] * 180)
    beaten = min(result[name]["dense_step_s"] for name in ("best_dense", "fewer_samples"))
    pays = rows["dp"]["predicted_step_s"] < 0.99 * beaten
    assert result["verdict"].startswith(f"{result['best_solver']}: A step of") == pays
    assert "setups" not in result  # every gradient may be sent
    assert set(rows) == {"two_stage", "dp", "mip"}
    assert rows["dp"]["status"] == "OPTIMAL"
    assert rows["dp"]["objective"] == pytest.approx(rows["mip"]["objective"], rel=1e-6)
    assert rows["two_stage"]["objective"] <= rows["dp"]["objective"] * (1 + 1e-9)
    assert table.read_text().count("\n") == 5


def test_compare_puts_solvers_beside_each_other_on_which_blocks_train(d2ft, cluster):
    """The shape of two blocks; the bound of each solver holds for the others."""
    code, out, err = d2ft(
        "compare", "--cluster", cluster, *SMALL, "--microbatches", 2, "--solvers",
        "dp,lagrangian,highs", "--budget-comm", 0.25, "--budget-compute", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(out)
    rows = {row["solver"]: row for row in result["setups"]}
    assert set(rows) == {"lagrangian", "highs"}
    assert len(result["setups_way"]["replicas"]) > 1
    for row in rows.values():
        assert row["status"] == "OPTIMAL"
        assert row["num_training"] == 3
        assert row["gradient_fraction"] == pytest.approx(0.25)
        assert row["gap"] <= 1e-6
        least = min(other["upper_bound"] for other in rows.values())
        assert row["objective"] <= least * (1 + 1e-9)


def test_compare_plans_as_plan_does(d2ft, cluster, tmp_path):
    for options in ([], ["--lora-rank", 2, "--lora-alpha", 4], ["--placement", "round-robin"]):
        given = ["--cluster", cluster, *SMALL, "--budget-compute", 0.6, *options]
        _, compared, _ = d2ft("compare", *given, "--solvers", "dp", "--json")
        path = tmp_path / "same.json"
        _, planned, _ = d2ft("plan", "--placement", "balanced", *given, "--out", path, "--json")
        step_s = simulate_plan(load_plan(path)).step_s
        row, plan = json.loads(compared)["solvers"][0], json.loads(planned)
        assert row["objective"] == pytest.approx(plan["objective"])
        assert row["compute_fraction"] == pytest.approx(plan["compute_fraction"])
        assert row["predicted_step_s"] == pytest.approx(step_s)


def test_where_dense_exchanges_nothing_no_share_of_it_is_given(d2ft, tmp_path):
    path = tmp_path / "one.yaml"
    network = "{kind: star, bandwidth_bytes_per_s: 1 GB/s, latency_s: 1 us}"
    path.write_text(f"name: one\ndevices: [{{name: only, preset: t4}}]\nnetwork: {network}\n")
    _, out, _ = d2ft(
        "plan", "--placement", "balanced", "--cluster", path, *SMALL, "--out", tmp_path / "p.json"
    )
    (line,) = [line for line in out.splitlines() if "exchanged" in line]
    assert "%" not in line
    _, out, _ = d2ft("compare", "--cluster", path, *SMALL, "--solvers", "dp", "--json")
    result = json.loads(out)
    assert [row["communication_fraction"] for row in result["solvers"]] == [None, None]
    assert result["best_dense"]["exchange_bytes"] == 0


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
        "heavy = {'torch', 'timm', 'ortools', 'pandas', 'matplotlib'}\n"
        "heavy |= {'numpy'} if '--help' in sys.argv else set()\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for arguments in (
        ["--help"],
        ["plan", "--help"],
        ["plan", "--placement", "balanced", "--cluster", cluster, *SMALL, "--out", out],
        ["plan", "--budget-compute", 0.6, "--cluster", cluster, *SMALL, "--out", out],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
