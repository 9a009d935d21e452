"""Plans from files on ranks: what was predicted beside what was counted, whatever the replicas."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.validating.plans_tried import rank_phase_seconds
from d2ft_sched.cluster.cluster import Cluster, Link
from d2ft_sched.cluster.device import Device
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan_file import save_plan
from d2ft_sched.plan.solved_plan import Plan, SolverRecord
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.schedule import schedule_to_rows
from rank_processes import codes_of_ranks, d2ft_on_ranks
from runtime.models.build import build_on_meta, shape_of
from sim.step import simulate_plan
from sim.ways.candidates import candidate
from sim.ways.estimate.load import Load, dense_load
from sim.ways.estimate.steps import WaySteps
from sim.ways.resting_loads import resting_loads

DEVICES = tuple(
    Device(name, rate, 10**10, 1e10) for name, rate in zip("abc", (2e10, 2e10, 1e10), strict=True)
)
CLUSTER = Cluster("three", DEVICES, tuple(Link(d.name, "s", 1e8, 1e-5) for d in DEVICES), ("s",))
SHAPE = shape_of(build_on_meta("test_vit", image_size=32, num_tokens=None, num_classes=7))
WORKLOAD = Workload(SHAPE, partition_by_heads(SHAPE, 1), (4, 4))
WAYS = {
    "data parallel": ((0,), (1,), (2,)),
    "hybrid": ((0, 1), (2,)),
    "cut": ((0, 1),),
    "one": ((2,),),
}


def plan_of(groups: tuple[tuple[int, ...], ...], load: Load) -> Plan:
    steps = WaySteps(WORKLOAD, CLUSTER)
    levelled = steps.level(groups, load)
    assert levelled is not None
    made = candidate(steps, levelled)
    return Plan(
        workload=made.workload,
        cluster=CLUSTER,
        replicas=made.replicas,
        budget=Budget(0.6),
        solver=SolverRecord("ways", made.method, "FEASIBLE", 0.0, None, 0.0, 0.0),
        schedule_rows=tuple(schedule_to_rows(made.schedule)),
        provenance=provenance(0),
    )


def test_ranks_count_what_was_predicted_of_every_way(tmp_path: Path) -> None:
    heads, blocks = resting_loads(WORKLOAD, 0.5, 0.6, 0)
    loads = {"dense": dense_load(WORKLOAD), "heads": heads, "blocks": blocks}
    files = []
    for way, load in [
        ("data parallel", "dense"),
        ("data parallel", "blocks"),
        *((way, "heads") for way in WAYS),
    ]:
        files.append(tmp_path / f"{way}, {load}.json")
        save_plan(plan_of(WAYS[way], loads[load]), files[-1])
    out = tmp_path / "v"
    given = ("--repeats", 1, "--device", "cpu", "--out", out)
    d2ft_on_ranks(3, tmp_path, "validate", *files, *given)
    table = pd.read_csv(out / "plans.csv")
    assert table["plan"].tolist() == [file.stem for file in files]
    assert (table["error_flops"] == 0).all()
    assert (table["error_bytes"].abs() < 1e-12).all()
    assert (table["error_peak_memory_bytes"].abs() < 0.05).all()
    assert not (out / "baselines.csv").exists()


@pytest.mark.parametrize("way", WAYS)
def test_what_ranks_of_several_replicas_wait_adds_up_to_the_step(way: str) -> None:
    plan = plan_of(WAYS[way], dense_load(WORKLOAD))
    prediction = simulate_plan(plan)
    phases = rank_phase_seconds(prediction, [replica.devices for replica in plan.replicas])
    *_, update = prediction.phases
    assert update.device_s is not None
    waited = update.duration_s - update.device_s
    used = list(plan.devices)
    total = sum(phases.values(), start=np.zeros(3)) + waited
    np.testing.assert_allclose(total[used], prediction.step_s, rtol=1e-9)


def test_a_plan_for_other_devices_is_refused_once(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    save_plan(plan_of(WAYS["data parallel"], dense_load(WORKLOAD)), file)
    codes = codes_of_ranks(2, tmp_path, "validate", file, "--out", tmp_path / "v")
    assert codes == [2, 1]
    assert "the plan is for 3 devices" in (tmp_path / "stderr-0").read_text()
    assert "the plan is for 3 devices" not in (tmp_path / "stderr-1").read_text()
    assert not (tmp_path / "v").exists()


def test_alone_a_plan_of_several_devices_is_refused(d2ft, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    save_plan(plan_of(WAYS["one"], dense_load(WORKLOAD)), file)
    code, _, err = d2ft("validate", file, "--out", tmp_path / "v")
    assert code == 2
    assert "is for 3 devices and this job has one rank" in err
    code, _, err = d2ft("validate", file, "--model", "x", "--out", tmp_path / "v")
    assert code == 2
    assert "the plans have their own" in err
