"""The study of ways on a testbed: which plans it runs, and what it says of what was measured."""

import pandas as pd
import pytest

from analysis.validating.plans_tried import QUANTITIES
from bench.bench_testbed_ways import CLUSTER, results_text, ways_summary, ways_table
from bench.testbed_ways.study_plans import BEST_DENSE, CHOSEN, FEWER, StudyPlan
from bench.testbed_ways.ways_study import WaysStudy, plans_of
from d2ft_sched.files.atomic_write import write_text
from sim.step import simulate_plan

STUDY = WaysStudy(CLUSTER, num_microbatches=4, microbatch_size=8)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[StudyPlan]:
    out = tmp_path_factory.mktemp("study")
    write_text(out / "cluster.yaml", CLUSTER.read_text())
    return plans_of(STUDY, out)


def test_plans_are_many_on_every_kind_of_way_and_none_is_there_twice(
    plans: list[StudyPlan],
) -> None:
    assert [one.load for one in plans[:3]] == [BEST_DENSE, FEWER, CHOSEN]
    assert len({one.name for one in plans}) == len(plans) >= 12
    assert {one.way for one in plans} == {"one device", "data parallel", "cut", "hybrid"}
    contents = {(one.devices, one.samples, one.plan.schedule.tobytes()) for one in plans}
    assert len(contents) == len(plans)
    shares = next(one.samples for one in plans if one.name == "all_four_dense")
    assert sum(shares) == 32
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def measured_as_predicted(plans: list[StudyPlan], factor: float) -> pd.DataFrame:
    rows = []
    for one in plans:
        said = simulate_plan(one.plan)
        values = {
            "flops": said.flops,
            "bytes": said.exchange_bytes,
            "peak_memory_bytes": said.peak_memory_bytes.max(),
            "step_s": said.step_s,
        }
        row: dict[str, object] = {"plan": one.name}
        for quantity in QUANTITIES:
            by = factor if quantity == "step_s" else 1.0
            row[f"predicted_{quantity}"] = values[quantity]
            row[f"measured_{quantity}"] = by * values[quantity]
            row[f"error_{quantity}"] = 1 / by - 1
        rows.append(row)
    return pd.DataFrame(rows)


def test_the_summary_holds_the_plan_against_the_quickest_dense_way_measured(
    plans: list[StudyPlan],
) -> None:
    measured = measured_as_predicted(plans, 1.25)
    table = ways_table(plans, measured.sample(frac=1, random_state=0))
    assert table["plan"].tolist() == [one.name for one in plans]
    summary = ways_summary(table)
    assert summary["num_plans"] == len(plans)
    assert summary["agreement"]["step_s"]["mean"] == pytest.approx(0.2)
    assert summary["agreement"]["step_s"]["kendall_tau"] == pytest.approx(1)
    dense = table[table["load"].isin([BEST_DENSE, "dense"])]["measured_step_s"].min()
    assert summary["quickest_dense_measured_step_s"] == dense
    assert summary["speedup_over_best_dense"] == pytest.approx(dense / summary["plan_step_s"])
    text = results_text(STUDY, table, summary, "a processor")
    assert text.count("\n| ") == len(plans) + 1
    assert "Mean error of the step over" in text
