"""Reports of folders that 'd2ft sweep' wrote, from a real small sweep."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.console.formatting import NO_BREAK, percent, quantity, saved
from analysis.reporting.report_sweep import GOOD


@pytest.fixture
def sweep(swept: Path, tmp_path: Path) -> Path:
    """A copy of the sweep to change."""
    return Path(shutil.copytree(swept, tmp_path / "sweep"))


def plain(text: str) -> str:
    """As `report_text` gives it."""
    return text.replace(NO_BREAK, " ")


def test_the_quickest_plan_that_keeps_much_answers_and_the_front_is_a_table(
    sweep: Path, report_text
) -> None:
    text = report_text(sweep)
    table = pd.read_csv(sweep / "sweep.csv")
    at_scale = table[table["bandwidth_scale"] == 1]
    good = at_scale[at_scale["retained_score_fraction"] >= GOOD]
    quickest_s, dense_s = good["predicted_step_s"].min(), at_scale["predicted_dense_step_s"].min()
    assert plain(saved(1 - quickest_s / dense_s, "step time")) in text
    assert plain(f"{quantity(dense_s, 's')} the best dense way") in text
    assert "12 points were planned and simulated" in text
    assert (
        "compute budget 0.4, 0.7, 1; communication budget 0.6, 1; bandwidth, times 0.1, 1" in text
    )
    front = table[table["is_pareto"]]
    assert front["bandwidth_scale"].nunique() == 2
    for row in front.to_dict("records"):
        cells = (
            quantity(row["predicted_step_s"], "s"), percent(row["step_fraction"]),
            percent(row["predicted_step_s"] / row["predicted_fewer_samples_step_s"]),
            percent(row["retained_score_fraction"]),
        )  # fmt: skip
        assert plain(" ".join(cells)) in text
    assert "Points without a plan" not in text
    assert {p.stem for p in (sweep / "pictures").iterdir()} == {"tradeoff_two", "step_time_two"}


def test_the_newer_of_two_tables_is_read(sweep: Path, report_text) -> None:
    pytest.importorskip("pyarrow")
    table = pd.read_csv(sweep / "sweep.csv", dtype={"heads_per_subnet": str})
    table[:6].to_parquet(sweep / "sweep.parquet")
    assert "6 points were planned" in report_text(sweep)


def test_points_without_a_plan_are_counted_by_their_reason(sweep: Path, report_text) -> None:
    table = pd.read_csv(sweep / "sweep.csv").astype(object)
    table.loc[:2, ["retained_score_fraction", "predicted_step_s"]] = None
    table.loc[:2, "is_pareto"] = False
    table.loc[:2, ["status", "note"]] = ["REFUSED", "no room for <a>"]
    table.to_csv(sweep / "sweep.csv", index=False)
    assert "two dp REFUSED no room for &lt;a&gt; 3" in report_text(sweep)
    table["retained_score_fraction"] = None
    table["is_pareto"] = False
    table.to_csv(sweep / "sweep.csv", index=False)
    text = report_text(sweep)
    assert "not known Nothing here compares a plan" in text
    assert "Plans that no other beats" not in text


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("predicted_step_s", "soon", "sweep.csv: line 2: predicted_step_s is 'soon'"),
        ("predicted_step_s", None, "sweep.csv: line 2: predicted_step_s is missing"),
        ("cluster", None, "sweep.csv: line 2: cluster is ''"),
        ("is_pareto", "maybe", "sweep.csv: line 2: is_pareto is 'maybe'"),
        ("is_pareto", None, "sweep.csv: line 2: is_pareto is ''"),
    ],
)
def test_a_damaged_table_is_one_line_and_nothing_is_written(
    refused_report, sweep: Path, column: str, value: object, said: str
) -> None:
    table = pd.read_csv(sweep / "sweep.csv").astype(object)
    table.loc[0, column] = value
    table.to_csv(sweep / "sweep.csv", index=False)
    refused_report(sweep, said)


def test_a_missing_or_unfinished_file_is_named(refused_report, sweep: Path) -> None:
    provenance = (sweep / "provenance.json").read_text()
    (sweep / "provenance.json").write_text(provenance[:-20])
    refused_report(sweep, "provenance.json: is damaged")
    (sweep / "sweep.csv").write_text("a,b\n1,2\n")
    refused_report(sweep, "sweep.csv: has no column 'cluster'")
    (sweep / "sweep.csv").unlink()
    refused_report(sweep, "points.jsonl: is of a sweep that was stopped before it wrote its table")
