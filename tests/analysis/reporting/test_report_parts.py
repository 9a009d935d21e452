"""Reports of folders that hold some results and not others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.console.formatting import percent, quantity
from analysis.reporting.write_report import write_report
from analysis.results.run_dir import Run
from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan_file import save_plan
from sim.step import simulate_plan


def test_a_plan_alone_is_simulated_anew(run: Run, report_text, tmp_path: Path) -> None:
    save_plan(run.plan, tmp_path / "plan.json")
    text = report_text(tmp_path)
    step_s = simulate_plan(run.plan).step_s
    assert quantity(step_s, "s").replace("\N{NO-BREAK SPACE}", " ") in text
    assert "nothing of it was measured" in text
    assert text.count("not known") == 2
    assert "(d2ft validate)" in text
    pictures = {p.stem for p in (tmp_path / "pictures").iterdir()}
    assert pictures == {"schedule", "timeline", "timeline_block", "workload"}


def test_a_validation_says_how_sure_predictions_are(
    validation: dict[str, Any], report_text, tmp_path: Path
) -> None:
    (tmp_path / "validation.json").write_text(json.dumps(validation))
    text = report_text(tmp_path)
    assert "off by 3.0 % on average" in text
    assert "at most 11.0 %" in text
    assert (
        f"up to {percent(1 - 0.55 / 1.1)} less step time".replace("\N{NO-BREAK SPACE}", " ") in text
    )
    assert "Dense as untouched model, measured: 1.20 s" in text
    assert "Nothing was trained here" in text
    assert "(d2ft study)" in text


def test_a_study_says_what_accuracy_costs(study_results: Path, report_text) -> None:
    text = report_text(study_results)
    assert "44.4 % less training time" in text
    assert "−1.0 ± " in text
    assert "“d2ft” at 60 % compute 70.0 %, “dense” 71.0 %" in text
    assert "±1.4 points over 2 seeds" in text
    assert "too tight at 60 % compute on mix, seed 1: not one micro-batch is done" in text
    assert "small &amp; quick" in text
    assert "settings.data.num_train 20" in text
    assert len(list((study_results / "pictures").iterdir())) == 8


def test_results_in_folders_of_their_commands_make_one_report(full_report: Path, page_text) -> None:
    html, text = full_report.read_text(encoding="utf-8"), page_text(full_report)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {"savings", "provenance-section"} <= set(ids)
    commands = ("validation", "study", "finetune", "sweep")
    assert {f"{command}-section" for command in commands} <= set(ids)
    assert "missing-section" not in ids
    sure = text.partition("How sure is that?")[2].partition("What does it cost")[0]
    assert sure.strip().startswith("off by 3.0 % on average")
    assert sure.count("Also:") == 2
    assert html.count("<h1") == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plans": []}, "plans is []"),
        ({"agreement": 3}, "agreement is 3"),
        ({"plans": [{"plan": "dense"}]}, "plans: one has no predicted_flops"),
        ({"baselines": [{"plan": 1}]}, "baselines: one has no"),
    ],
)
def test_a_damaged_validation_is_refused(
    validation: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "validation.json").write_text(json.dumps(validation | change))
    with pytest.raises(InputError, match=re.escape(message)):
        write_report(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["validation.json"]


def test_a_word_for_a_figure_is_refused(validation: dict[str, Any], tmp_path: Path) -> None:
    validation["plans"][1]["measured_bytes"] = "many"
    (tmp_path / "validation.json").write_text(json.dumps(validation))
    with pytest.raises(InputError, match="measured_bytes is not a number in every one"):
        write_report(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no results"):
        write_report(tmp_path)
