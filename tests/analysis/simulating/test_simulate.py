"""``d2ft simulate``: what it finds, says and writes."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.simulating.changed_cluster import Changes, plan_again
from analysis.simulating.simulation import read_jitter, simulate
from d2ft_sched.cluster.cluster_file import cluster_from_dict
from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan_file import load_plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.questions.jitter import Jitter
from sim.questions.what_if import drop_devices
from sim.step import simulate_plan, simulate_step
from sim.ways.fewer import fewer_samples

SMALL = ["--model", "vit_tiny_patch16_224", "--image-size", "32", "--microbatch-size", "2"]
ON_WAY = ("--resting", "drawn", "--budget-compute", 0.6)
"""Without a placement: ways are searched."""
SPEEDS = {"fast": 2e11, "even": 1e11, "slow": 5e10}


def cluster_content():
    return {
        "name": "lab",
        "devices": [
            {
                "name": name,
                "compute_flops_per_s": speed,
                "memory_bytes": "8 GB",
                "memory_bandwidth_bytes_per_s": 1e10,
            }
            for name, speed in SPEEDS.items()
        ],
        "network": {"kind": "star", "bandwidth_bytes_per_s": 1e8, "latency_s": 1e-5},
    }


@pytest.fixture(scope="module")
def known():
    """What was simulated before, by all that it was made from."""
    return {}


@pytest.fixture
def make_plan(made_plan, tmp_path):
    """``make_plan(change, *options)``: a plan file for the cluster after ``change(content)``."""

    def make(change=lambda content: None, *arguments):
        content = cluster_content()
        change(content)
        cluster_file = tmp_path / "lab.yaml"
        cluster_file.write_text(yaml.safe_dump(content))
        arguments = arguments or ("--budget-compute", 0.6, "--placement", "every-device")
        placed = () if {"--way", ON_WAY[0]} & set(arguments) else ("--placement", "balanced")
        given = (*placed, "--cluster", cluster_file, *SMALL, *arguments)
        return made_plan(tmp_path / "plan.json", *given)

    return make


@pytest.fixture
def asked(d2ft, known, tmp_path):
    """``asked(plan, *options)``: the result that was written, and what was printed."""

    def call(plan, *arguments):
        key = (plan.read_bytes(), *map(str, arguments))
        if key not in known:
            code, printed, err = d2ft("simulate", plan, "--out", tmp_path / "asked", *arguments)
            assert code == 0, err
            known[key] = (tmp_path / "asked").read_text(), printed
        result, printed = known[key]
        return json.loads(result), printed

    return call


@pytest.fixture
def simulated(asked):
    """``simulated(plan, *options)``: the result."""
    return lambda plan, *arguments: asked(plan, *arguments)[0]


def test_the_tables_of_a_plan(d2ft, make_plan):
    code, out, err = d2ft("simulate", make_plan(), "--top", 9)
    assert (code, err) == (0, "")
    text = out.replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "Prediction of one step on lab (rooflines, not calibrated)",
        "step time",
        "compute: all devices",
        "bandwidth: all links",
        "latency and fair sharing",
        "best dense",
        "fewer samples",
        "one device",
        "data parallel",
        "naive: placed as the plan is",
        "naive: tensor parallel, ring",
        "fast -> switch",
    ):
        assert part in text
    assert "price" not in text
    assert "energy" not in text.lower()
    assert "e-0" not in text


def test_the_first_line_is_the_verdict(asked, make_plan, simulated):
    plan = make_plan()
    result = simulated(plan)
    first = asked(plan, "--scale-bandwidth", "1e-3")[1].splitlines()[0]
    assert first.startswith("The plan does not beat the best dense way: a step of the plan takes ")
    assert "times as long as the best dense way, fast alone" in first
    ways = [w for w in result["references"] if not (w["is_naive"] or w["out_of_memory"])]
    least_s = min(way["step_s"] for way in ways)
    assert result["best_dense"]["step_s"] == pytest.approx(least_s, rel=1e-12)
    is_less = result["plan"]["step_s"] < least_s
    assert ("less than the best dense way" in result["verdict"]) == is_less
    out = asked(plan, "--cluster", _shrunk(plan.parent))[1]
    assert out.startswith("The plan does not fit the memory of fast")
    assert "no dense way fits the memory" in out.splitlines()[0]


def test_a_plan_that_does_not_pay_is_told_with_what_one_would(make_plan, simulated):
    """What is named is tried here by the plan command itself."""
    lost = simulated(make_plan())
    best_s = lost["best_dense"]["step_s"]
    assert lost["plan"]["step_s"] > best_s
    said = "on the best way, which 'd2ft plan' finds without --placement"
    assert lost["change_that_pays"] == said
    assert lost["verdict"].endswith(f"; a plan would pay {said}")
    won = simulated(make_plan(lambda content: None, *ON_WAY))
    assert won["change_that_pays"] is None
    assert won["plan"]["step_s"] < min(best_s, won["fewer_samples"]["step_s"])
    assert won["best_dense"]["step_s"] == best_s
    assert won["verdict"].startswith("A step of the plan takes ")


def test_fewer_samples_have_the_compute_of_the_plan_and_their_own_best_way(make_plan, simulated):
    plan = load_plan(make_plan())
    result = simulated(plan_file := make_plan())
    fewer, as_short = result["fewer_samples"], result["samples_as_short"]
    per_sample = result["best_dense"]["flops"] / 10
    number = sum(fewer["samples"])
    assert number == int(result["plan"]["flops"] / per_sample)
    own = fewer_samples(plan.workload, plan.cluster, number / 10)
    assert fewer["step_s"] == pytest.approx(own.dense_step_s, rel=1e-12)
    assert fewer["replicas"] == [list(names) for names in own.device_names]
    assert as_short["step_s"] <= result["plan"]["step_s"]
    assert {"exchange_bytes", "name"} <= fewer.keys() & result["best_dense"].keys()
    assert load_plan(plan_file).schedule_rows == plan.schedule_rows


def test_a_dense_plan_is_told_without_a_change(make_plan, simulated):
    result = simulated(make_plan(lambda content: None, "--placement", "balanced"))
    assert result["change_that_pays"] is None
    assert "a plan would pay" not in result["verdict"]
    assert "no change" not in result["verdict"]


QUESTIONS = {
    "overlapped": ["--overlap"],
    "jitter": ["--jitter", 0.1, "--straggler", "0.1:2", "--num-steps", 20],
    "another network": ["--scale-bandwidth", 0.5, "--scale-latency", 2],
    "a faster device": ["--scale-compute", "slow=3"],
    "a device less": ["--drop-device", "slow"],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_plan_of_several_replicas_is_asked_everything(make_plan, simulated, tmp_path, question):
    plan_file = make_plan(lambda content: None, *ON_WAY, "--way", "data-parallel")
    plan = load_plan(plan_file)
    assert len(plan.replicas) > 1
    trace, timeline = tmp_path / "trace.json", tmp_path / "timeline.csv"
    written = ["--trace", trace, "--timeline", timeline]
    result = simulated(plan_file, *QUESTIONS[question], *written)
    step_s = result["plan"]["step_s"]
    assert sum(row["bound_s"] for row in result["plan"]["bounds"]) == pytest.approx(step_s)
    assert result["plan"]["critical_path"][-1]["end_s"] == pytest.approx(step_s)
    rows = pd.read_csv(timeline)
    assert rows["end_s"].max() == pytest.approx(step_s)
    used = {d["name"] for d in result["plan"]["devices"] if d["busy_s"] > 0}
    assert set(rows["resource"]) - {"network"} == used
    events = json.loads(trace.read_text())["traceEvents"]
    assert max(e["ts"] + e["dur"] for e in events if e["ph"] == "X") == pytest.approx(1e6 * step_s)
    if question == "jitter":
        assert result["jitter"]["plan"]["p50_s"] > step_s
        assert result["jitter"]["best dense"]["p50_s"] > result["best_dense"]["step_s"]
    if question == "a device less":
        assert "slow" not in used
        assert result["before"]["step_s"] == simulate_plan(plan).step_s


def _shrunk(folder):
    content = cluster_content()
    for device in content["devices"]:
        device["memory_bytes"] = "1 kB"
    path = folder / "shrunk.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_multiple_never_reads_as_faster(asked, make_plan):
    plan = make_plan(
        lambda c: c["network"].update(bandwidth_bytes_per_s=1e6), "--placement", "round-robin"
    )
    out = asked(plan)[1]
    assert "times as much" in out
    assert not [
        line
        for line in out.split("Devices under")[0].split("Ways to")[1].splitlines()
        if line.endswith("x")
    ]


def test_no_placement_is_called_naive_that_is_one_of_the_ways(make_plan, simulated):
    """Each naive row says which placement it is."""
    names = {
        given: [w["name"] for w in simulated(make_plan(*options))["references"] if w["is_naive"]]
        for given, options in (("placed", ()), ("on a way", (lambda content: None, *ON_WAY)))
    }
    tensor_parallel = ["tensor parallel, ring", "tensor parallel, tree"]
    assert names["on a way"] == tensor_parallel
    assert names["placed"] == ["placed as the plan is", *tensor_parallel]


def test_json_carries_everything(make_plan, simulated):
    plan = make_plan()
    result = simulated(plan, "--jitter", 0.1, "--num-steps", 50)
    predicted = simulate_plan(load_plan(plan))
    of_plan = result["plan"]
    assert of_plan["step_s"] == predicted.step_s
    assert sum(row["bound_s"] for row in of_plan["bounds"]) == pytest.approx(predicted.step_s)
    assert of_plan["critical_path"][-1]["end_s"] == pytest.approx(predicted.step_s)
    busy = [row["busy_s"] for row in of_plan["device_utilisation"]]
    assert busy == predicted.device_busy_s.tolist()
    assert {row["link"] for row in of_plan["link_utilisation"]} >= {"fast -> switch"}
    for found in of_plan["sensitivity"]:
        assert found["gain_s"] == pytest.approx(predicted.step_s - found["step_s"])
        assert found["unlimited_step_s"] <= found["step_s"] * (1 + 1e-9)
    ways = [way for way in result["references"] if not way["is_naive"]]
    assert [way["step_s"] for way in ways] == sorted(way["step_s"] for way in ways)
    assert {way["name"] for way in ways} == {"one device", "data parallel", "cut", "hybrid"}
    placed = next(w for w in result["references"] if w["name"] == "placed as the plan is")
    loaded = load_plan(plan)
    every = uniform_schedule(
        loaded.workload.num_subnets, loaded.workload.num_microbatches, Operation.FULL
    )
    dense = simulate_step(loaded, every)
    assert placed["step_s"] == dense.step_s
    assert placed["exchange_bytes"] == dense.exchange_bytes
    assert result["jitter"]["plan"]["num_steps"] == 50
    assert result["jitter"]["plan"]["p50_s"] > predicted.step_s
    assert (result["what_if"], result["before"], result["warnings"]) == ([], None, [])


def test_no_bottleneck_is_tried_if_none_is_asked_for(make_plan, simulated):
    assert simulated(make_plan(), "--top", 0)["plan"]["sensitivity"] == []


def test_what_if_equals_a_cluster_file_that_says_so(make_plan, simulated, tmp_path):
    plan = make_plan()
    result = simulated(
        plan, "--scale-bandwidth", 2, "--scale-bandwidth", "slow=0.5", "--scale-latency", 3,
        "--scale-compute", "fast=0.25",
    )  # fmt: skip
    content = cluster_content()
    content["network"] |= {
        "bandwidth_bytes_per_s": 2e8,
        "latency_s": 3e-5,
        "overrides": {"slow": {"bandwidth_bytes_per_s": 1e8}},
    }
    content["devices"][0] |= {
        "compute_flops_per_s": SPEEDS["fast"] / 4,
        "memory_bandwidth_bytes_per_s": 0.25e10,
    }
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(content))
    written = simulated(plan, "--cluster", tmp_path / "changed.yaml")
    assert result["plan"]["step_s"] == pytest.approx(written["plan"]["step_s"], rel=1e-9)
    for held in ("best_dense", "fewer_samples"):
        assert result[held]["step_s"] == pytest.approx(written[held]["step_s"], rel=1e-9)
    assert result["before"]["step_s"] == simulated(plan)["plan"]["step_s"]
    assert result["what_if"] == [
        "bandwidth of all links x 2",
        "bandwidth of slow x 0.5",
        "latency of all links x 3",
        "compute of fast x 0.25",
    ]


def test_a_dropped_device_means_a_plan_for_what_is_left(asked, make_plan):
    plan_file = make_plan()
    result, out = asked(plan_file, "--drop-device", "slow")
    assert [d["name"] for d in result["plan"]["devices"]] == ["fast", "even"]
    assert " of 2 devices hold subnets" in result["replanned"]
    plan = load_plan(plan_file)
    left = drop_devices(plan.cluster, ["slow"])
    again = plan_again(plan, left, None, seed=0).plan
    assert result["plan"]["step_s"] == simulate_plan(again).step_s
    assert (again.budget, again.workload) == (plan.budget, plan.workload)
    assert again.placement.num_devices == 2
    assert result["plan"]["flops"] < 0.7 * result["best_dense"]["flops"]
    assert result["before"]["step_s"] == simulate_plan(plan).step_s
    assert "What if: without slow" in out
    assert "Planned again for what is left" in out
    assert "every subnet and micro-batch counts alike" in out


def test_a_dropped_device_and_scores(make_plan, simulated, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["subnet,microbatch,forward_score,backward_score"]
    lines += [f"{s},{i},{rng.random()},{rng.random()}" for s in range(36) for i in range(5)]
    scores = tmp_path / "scores.csv"
    scores.write_text("\n".join(lines) + "\n")
    plan_file = make_plan(lambda content: None, "--budget-compute", 0.6, "--scores", scores)
    plan = load_plan(plan_file)
    left = drop_devices(plan.cluster, ["slow"])
    with_scores = plan_again(plan, left, scores, seed=0).plan
    without = plan_again(plan, left, None, seed=0).plan
    assert with_scores.schedule_rows != without.schedule_rows
    result = simulated(plan_file, "--drop-device", "slow", "--scores", scores)
    assert result["plan"]["step_s"] == simulate_plan(with_scores).step_s


@pytest.mark.parametrize(
    "options", [("--placement", "balanced", "--target-step-time", "0.95x"),
                ("--way", "one-device", "--target-step-time", "0.95x")]
)  # fmt: skip
def test_a_target_step_time_is_asked_of_what_is_left(make_plan, simulated, options):
    plan_file = make_plan(lambda content: None, *options)
    target_s = load_plan(plan_file).budget.target_step_s
    result = simulated(plan_file, "--drop-device", "slow")
    assert result["plan"]["step_s"] <= target_s * (1 + 1e-9)
    assert result["plan"]["flops"] < result["best_dense"]["flops"]


def test_a_placement_in_turn_stays_one(make_plan):
    plan = load_plan(
        make_plan(lambda content: None, "--placement", "round-robin", "--budget-compute", 0.6)
    )
    again = plan_again(plan, drop_devices(plan.cluster, ["slow"]), None, seed=0).plan
    assert set(again.placement.subnet_device[:3]) == {0, 1}
    assert again.placement.owner == (0, 1, 0, 1, 0)


def test_out_of_memory_is_a_result(asked, make_plan, tmp_path):
    plan = make_plan()
    content = cluster_content()
    content["devices"][0]["memory_bytes"] = "10 MB"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    result, out = asked(plan, "--cluster", tmp_path / "small.yaml")
    (found,) = result["plan"]["out_of_memory"]
    assert (found["device"], found["memory_bytes"]) == ("fast", 10**7)
    assert found["shortfall_bytes"] == found["needed_bytes"] - 10**7
    lines = [k for k in out.splitlines() if k.startswith("OUT OF MEMORY")]
    assert len(lines) == 1
    assert "fast needs" in lines[0]


def with_prices(content):
    for device in content["devices"]:
        device |= {"price_per_hour": 1.8, "power_w": "100 W", "idle_power_w": "20 W"}


def test_cost_where_it_is_stated(asked, make_plan):
    written, out = asked(make_plan(with_prices))
    result = written["plan"]
    step_s, cost = result["step_s"], result["cost"]
    busy_s = sum(d["busy_s"] for d in result["devices"])
    assert cost["price"] == pytest.approx(3 * 1.8 * step_s / 3600)
    assert cost["energy_j"] == pytest.approx(100 * busy_s + 20 * (3 * step_s - busy_s))
    assert cost["price_per_1000_steps"] == pytest.approx(1000 * cost["price"])
    for part in ("price of 1,000 steps", "energy computing, 1,000 steps", "energy idle"):
        assert part in out


def test_cost_is_absent_where_it_is_not_stated(make_plan, simulated):
    assert simulated(make_plan())["plan"]["cost"] == {}


def test_beyond_calibration_is_said_once_with_the_range(d2ft, make_plan, simulated):
    def with_curve(content):
        content["devices"][0]["curves"] = {
            "mlp_forward": {"work": [1.0, 2.0], "seconds": [1e-6, 2e-6]}
        }

    plan = make_plan(with_curve)
    for command in ("plan", "compare"):
        code, _, err = d2ft(command, "--cluster", plan.with_name("lab.yaml"), *SMALL, "--out",
                            plan.with_name(command))  # fmt: skip
        assert code == 0
        # A slow machine says what it is at besides.
        assert err.count("warning: device 'fast': mlp_forward is calibrated from 1 to 2") == 1
    code, out, err = d2ft("simulate", plan, "--json", "--scale-compute", 2)
    assert code == 0
    warned = json.loads(out)["warnings"]
    assert len(warned) == 1
    assert "'fast': mlp_forward is calibrated from 1 to 2 FLOPs" in warned[0]
    assert err == f"warning: {warned[0]}\n"


def test_files(d2ft, make_plan, tmp_path):
    plan, out = make_plan(with_prices), tmp_path / "out.json"
    code, printed, _ = d2ft(
        "simulate", plan, "--out", out, "--trace", tmp_path / "t.json", "--timeline",
        tmp_path / "t.csv",
    )  # fmt: skip
    assert code == 0
    result = json.loads(out.read_text(), parse_constant=pytest.fail)
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["otherData"]["step_s"] == result["plan"]["step_s"]
    assert any("FULL" in e.get("args", {}) for e in content["traceEvents"])
    assert (tmp_path / "t.csv").read_text().startswith("wave,direction,block")
    for path in (out, tmp_path / "t.json", tmp_path / "t.csv"):
        assert f"Wrote {path}" in printed


def test_overlapped_waves(make_plan, simulated):
    plan = make_plan(lambda content: None, "--waves", 3, "--placement", "every-device")
    apart, overlapped = simulated(plan), simulated(plan, "--overlap")
    assert not apart["overlap"]
    assert overlapped["overlap"]
    assert overlapped["plan"]["step_s"] < apart["plan"]["step_s"]
    placed_s = [
        next(w["step_s"] for w in r["references"] if w["name"] == "placed as the plan is")
        for r in (apart, overlapped)
    ]
    assert placed_s[1] < placed_s[0]
    assert overlapped["best_dense"]["step_s"] == apart["best_dense"]["step_s"]
    bound_s = sum(row["bound_s"] for row in overlapped["plan"]["bounds"])
    assert bound_s == pytest.approx(overlapped["plan"]["step_s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale-compute", "laptop=2"], "no device 'laptop'; it has fast, even, slow"),
        (["--drop-device", "laptop"], "no device 'laptop'; it has fast, even, slow"),
        (
            ["--scale-bandwidth", "x=2"],
            "no link 'x'; it has fast:switch, even:switch, slow:switch",
        ),
        (["--scale-latency", "fast"], "--scale-latency is 'fast'; it must be a factor such as 2"),
        (["--scale-bandwidth", "0"], "bandwidth is scaled by 0"),
        (["--scale-compute", "fast=-1"], "compute is scaled by -1"),
        (["--straggler", "often"], "--straggler is 'often'"),
        (["--straggler", "2:2"], "the probability of a straggler is 2"),
        (["--jitter", "-0.1"], "the spread of phases is -0.1"),
        (["--scores", "s.csv"], "goes with --drop-device"),
        (
            ["--drop-device", "fast", "--drop-device", "even", "--drop-device", "slow"],
            "every device is dropped",
        ),
    ],
)
def test_a_wrong_question_is_one_line(d2ft, make_plan, arguments, message):
    code, out, err = d2ft("simulate", make_plan(), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("d2ft: ")
    assert err.count("\n") == 1
    assert message in err


def test_overlap_without_waves_to_overlap_is_said(d2ft, make_plan):
    code, _, err = d2ft("simulate", make_plan(), "--overlap", "--json")
    assert code == 0
    assert err == (
        "warning: --overlap changes nothing for a plan of one wave; plan with --placement balanced "
        "--waves 2 or more\n"
    )


def test_jitter_of_the_command_line():
    assert read_jitter(None, None) is None
    assert read_jitter(0.2, None) == Jitter(phase_sigma=0.2)
    assert read_jitter(None, "0.01:3") == Jitter(straggler_probability=0.01, straggler_factor=3.0)


def test_one_device_has_no_links_to_compare(make_plan, tmp_path):
    def alone(content):
        content["devices"] = content["devices"][:1]

    found = simulate(load_plan(make_plan(alone)))
    assert [way.name for way in found.references] == ["one device", "placed as the plan is"]
    assert found.best_dense.way.device_names == (("fast",),)
    assert found.planned.exchange_bytes == 0


def test_a_name_may_hold_an_equals_sign():
    cluster = cluster_from_dict(cluster_content())
    changes = Changes(bandwidth=["2"], compute=["a=b=0.5"])
    assert changes.describe() == ("bandwidth of all links x 2", "compute of a=b x 0.5")
    with pytest.raises(InputError, match="no device 'a=b'"):
        changes.apply(cluster)
