"""Magnitudes that no machine has: told in one line, or shown as they are."""

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis import cli
from analysis.console.formatting import less_or_more, percent, points, quantity, si_unit
from d2ft_sched.cluster.topology import Cable, full_mesh
from d2ft_sched.errors import InputError
from d2ft_sched.files.sizes import MOST_CELLS
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan_file import load_plan, parse_plan, sign

MODEL = ["--model", "vit_tiny_patch16_224", "--image-size", 32, "--microbatch-size", 2]
CLUSTER = """
name: two
devices:
  - {{name: a, compute_flops_per_s: {flops}, memory_bytes: {memory},
     memory_bandwidth_bytes_per_s: 1e11}}
  - {{name: b, compute_flops_per_s: 5e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}}
network: {{kind: full_mesh, bandwidth_bytes_per_s: {rate}, latency_s: {latency}}}
"""
MAGNITUDES = st.integers(-320, 320).map(lambda exponent: f"1e{exponent}")
QUICK = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what was said; a refusal is one line."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["d2ft", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    code = int(ended.value.code or 0)
    if not code:
        return code, out.getvalue()
    assert code == 2
    said = [line for line in err.getvalue().split("\n") if line.startswith("d2ft: ")]
    assert len(said) == 1
    assert len(said[0]) < 800
    return code, said[0]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes")
    text = CLUSTER.format(flops=1e12, memory="8 GB", rate="1e9", latency="1e-5")
    (folder / "two.yaml").write_text(text)
    path = folder / "plan.json"
    code, _ = run(
        "plan", "--placement", "balanced", "--cluster", folder / "two.yaml", *MODEL, "--out", path
    )
    assert code == 0
    return path


@QUICK
@given(flops=MAGNITUDES, memory=MAGNITUDES, rate=MAGNITUDES, latency=MAGNITUDES)
@example(flops="1e12", memory="1e20", rate="1e9", latency="1e-5")
@example(flops="1e-12", memory="1e18", rate="1e-12", latency="1e24")
@example(flops="1e24", memory="1e18", rate="1e24", latency="0")
def test_clusters_of_any_magnitude(
    plan: Path, flops: str, memory: str, rate: str, latency: str
) -> None:
    cluster = plan.with_name("odd.yaml")
    cluster.write_text(CLUSTER.format(flops=flops, memory=memory, rate=rate, latency=latency))
    code, said = run("simulate", plan, "--cluster", cluster, "--top", 1)
    assert code == 0 or "odd.yaml: " in said


@QUICK
@given(option=st.sampled_from(["bandwidth", "latency", "compute"]), factor=MAGNITUDES)
@example(option="bandwidth", factor="1e-300")
@example(option="compute", factor="1e-310")
def test_what_ifs_of_any_magnitude(plan: Path, option: str, factor: str) -> None:
    run("simulate", plan, f"--scale-{option}", factor, "--top", 0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["plan", *MODEL, "--microbatches", 100_000], "--microbatches is"),
        (["plan", *MODEL, "--microbatches", 10**21], "--microbatches is"),
        (["plan", *MODEL, "--microbatch-size", 10**21], "--microbatch-size is"),
        (["plan", *MODEL, "--microbatch-size", 10**5], "500000 samples of a mini-batch are more"),
        (["compare", *MODEL, "--microbatches", 100_000], "--microbatches is"),
        (["sweep", *MODEL[:4], "--jobs", 10**9], "processes (--jobs) are more than"),
        (["sweep", *MODEL[:4], "--minibatch-size", 10**21], "--minibatch-size is"),
        (["sweep", *MODEL[:4], "--microbatches", "1000000000"], "--microbatches is"),
        (
            ["sweep", *MODEL[:4], "--budget-compute", "0.001:1:0.001", "--budget-comm",
             "0.0001:1:0.0001"],
            "points of the grid are more than",
        ),
    ],
)  # fmt: skip
def test_sizes_are_refused_before_they_are_made(
    plan: Path, tmp_path: Path, command: list[object], said: str
) -> None:
    cluster = plan.with_name("two.yaml")
    out = [] if command[0] == "compare" else ["--out", tmp_path / "out"]
    code, line = run(*command, "--cluster", cluster, *out)
    assert code == 2
    assert said in line


@pytest.mark.parametrize("num_steps", [10**9, 10**30])
def test_steps_are_refused_before_they_are_drawn(plan: Path, num_steps: int) -> None:
    code, line = run("simulate", plan, "--jitter", 0.1, "--num-steps", num_steps)
    assert (code, "draw fewer steps" in line) == (2, True)


def test_instances_and_meshes_are_bounded() -> None:
    code, line = run("compare", "--sizes", 100_000, "--microbatches", 10_000)
    assert (code, "ask for fewer" in line) == (2, True)
    with pytest.raises(InputError, match="links of a full mesh"):
        full_mesh([str(i) for i in range(10_000)], Cable(1e9, 1e-5))


def _whole_numbers(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [path] if isinstance(value, int) and not isinstance(value, bool) else []
    return found + [place for key, inner in items for place in _whole_numbers(inner, (*path, key))]


def test_whole_numbers_beyond_64_bits_in_plans_are_refused_or_harmless(plan: Path) -> None:
    """One of each kind of field but the model's sizes."""
    content = json.loads(plan.read_text())
    for name in ("format", "version", "sha256"):
        del content[name]
    places = {
        tuple(part for part in place if isinstance(part, str)): place
        for place in _whole_numbers(content)
        if place[:2] != ("workload", "shape")
    }
    assert len(places) > 10
    for *path, last in places.values():
        for number in (2**63, -(2**70), 10**400):
            changed = json.loads(json.dumps(content))
            holder = changed
            for part in path:
                holder = holder[part]
            holder[last] = number
            with contextlib.suppress(InputError):
                parse_plan(sign(changed))


def test_a_workload_is_bounded(plan: Path) -> None:
    workload = load_plan(plan).workload
    with pytest.raises(InputError, match="fewer"):
        Workload(workload.shape, workload.partition, (1,) * (MOST_CELLS // 36 + 1))
    with pytest.raises(InputError, match="samples of a micro-batch"):
        Workload(workload.shape, workload.partition, (10**30,))


@given(st.floats() | st.floats(1e18, 1e300), st.sampled_from(["s", "B", "FLOP"]))
@example(float("inf"), "s")
@example(float("nan"), "B")
def test_any_number_has_a_text(value: float, unit: str) -> None:
    assert quantity(value, unit).endswith(si_unit(value, unit)[1])
    for show in (percent, points, less_or_more):
        assert len(show(value)) < 400
