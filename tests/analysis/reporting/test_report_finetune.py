"""Reports of folders that 'd2ft finetune' wrote, from a real small training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.console.formatting import NO_BREAK, percent, points_within, quantity
from analysis.finetuning.metrics_file import MetricsFile
from analysis.planning.plan_summary import summarize
from analysis.results.savings import accuracy_interval, accuracy_range
from d2ft_sched.plan import plan_file
from d2ft_sched.plan.plan_file import load_plan, sign
from runtime.training.events import DeviceChange, MovedShare, Replanned


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the training to change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def plain(text: str) -> str:
    """As `report_text` gives it."""
    return text.replace(NO_BREAK, " ")


def write(folder: Path, records: list[dict]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def of(records: list[dict], event: str) -> list[dict]:
    return [r for r in records if r["event"] == event]


def dense_of(records: list[dict]) -> list[dict]:
    """As a training with --dense would have written them."""
    dense = [dict(r) for r in records if r["event"] != "scored"]
    dense[0]["settings"] = {**dense[0]["settings"], "dense": True, "per_minibatch": False}
    for step in of(dense, "stepped"):
        step |= {"step_s": 2 * step["step_s"]}
    of(dense, "evaluated")[-1]["top1"] = 0.25
    return dense


@pytest.fixture
def dense(run: Path, records: list[dict]) -> Path:
    """A dense training in its place beside the run."""
    (run / "dense").mkdir()
    shutil.copy(run / "plan.json", run / "dense")
    write(run / "dense", dense_of(records))
    return run / "dense"


def test_the_folder_says_what_was_executed_and_reached(
    run: Path, records: list[dict], report_text
) -> None:
    text = report_text(run)
    summary, steps = summarize(load_plan(run / "plan.json")), of(records, "stepped")
    (scored,) = of(records, "scored")
    spent = sum(s["flops"] for s in steps) + scored["flops"]
    saved = 1 - spent / (len(steps) * summary.dense_flops)
    side, nothing = ("less", "") if saved > 0 else ("more", "nothing: ")
    assert (
        plain(f"Also: {nothing}{percent(abs(saved))} {side} FLOPs, executed over 8 steps, scoring")
        in text
    )
    assert (
        plain(f"{percent(scored['flops'] / (spent - scored['flops']))} of what training took")
        in text
    )
    top1 = of(records, "evaluated")[-1]["top1"]
    low, high = accuracy_range(top1, 8)
    assert plain(f"{percent(low)} to {percent(high)} top-1") in text
    assert plain(f"{percent(top1)} of 8 test samples after 2 epochs") in text
    assert "No dense training to hold it against" in text
    mean = sum(s["flops"] for s in steps) / len(steps)
    assert plain(f"{quantity(mean, 'FLOP')} {percent(mean / summary.dense_flops)}") in text
    assert "model.safetensors all weights" in text
    assert "checkpoints/step-000008/model.safetensors checkpoint" in text
    assert "settings.num_train 20" in text

    pictures = {p.stem for p in (run / "pictures").iterdir()}
    assert {"training_progress", "training_steps", "timeline", "schedule"} <= pictures


@pytest.mark.usefixtures("dense")
def test_a_dense_training_beside_it_is_what_accuracy_costs(
    run: Path, records: list[dict], report_text
) -> None:
    text = report_text(run)
    top1 = of(records, "evaluated")[-1]["top1"]
    assert plain(points_within(top1 - 0.25, accuracy_interval(top1, 0.25, 8))) in text
    assert plain(f"plan {percent(top1)}, dense {percent(0.25)}") in text
    assert "Also: 50.0 % less step time, measured on" in text
    assert "Chance alone moves such a difference" in text
    assert "No dense training" not in text


def test_a_dense_training_alone_saves_nothing(dense: Path, report_text) -> None:
    text = report_text(dense)
    assert "every operation FULL, on" in text
    assert "FLOPs, executed" not in text
    assert plain(f"{percent(0.25)} of 8 test samples") in text


def test_changes_of_the_schedule_are_told_with_their_reasons(
    run: Path, records: list[dict], report_text
) -> None:
    change = DeviceChange("this device", 1.5, 1.0, 0.0, 0.0, 0.1, 0.1, 60, 4, 90, 5)
    metrics = MetricsFile(run / "metrics.jsonl", records)
    metrics.add(Replanned(4, "this device: lanes take 1.50 of their first time", (change,), 0.01))
    metrics.close()
    text = report_text(run)
    assert "After step 4: this device: lanes take 1.50 of their first time" in text
    assert "this device 1.00 1.50 90 60 5 4" in text
    assert "Dots: the schedule changed after this step" in text


def test_samples_that_moved_are_told_with_their_reason(
    run: Path, records: list[dict], report_text
) -> None:
    change = DeviceChange("b", 2.5, 1.0, 0.0, 0.0, 0.1, 0.1)
    shares = (MovedShare(("a", "c"), 9, 6), MovedShare(("b",), 1, 4))
    metrics = MetricsFile(run / "metrics.jsonl", records)
    metrics.add(Replanned(4, "b: lanes take 2.50 of their first time", (change,), 0.01, shares))
    metrics.close()
    text = report_text(run)
    assert "After step 4: b: lanes take 2.50 of their first time" in text
    assert "a + c 6 9" in text
    assert "b 4 1" in text
    assert "Dots: samples moved between replicas after this step" in text
    assert "Changes of the schedule" not in text


def test_a_training_that_was_cut_off_is_reported_as_far_as_it_came(
    run: Path, records: list[dict], report_text
) -> None:
    until = [r["event"] for r in records].index("stepped") + 3
    write(run, records[:until])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "ste')
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    text = report_text(run)
    assert "Training stopped after step 3 of 8" in text
    assert "3 of 8 steps, measured" in text
    assert "No weights are in this folder" in text


def edited(line: int, **changes: object):
    def edit(folder: Path, records: list[dict]) -> None:
        records[line] |= changes
        write(folder, records)

    return edit


def without_steps(folder: Path, records: list[dict]) -> None:
    write(folder, [r for r in records if r["event"] != "stepped"])


def with_a_step_left_out(folder: Path, records: list[dict]) -> None:
    write(folder, [r for r in records if r.get("step") != 3])


def scribbled(folder: Path, records: list[dict]) -> None:
    text = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([text[0], "[1,", *text[1:]]) + "\n")


def of_another_plan(folder: Path, records: list[dict]) -> None:
    content = json.loads((folder / "plan.json").read_text())
    for name in ("format", "version", "sha256"):
        del content[name]
    content["budget"]["compute"] = 0.71
    (folder / "plan.json").write_text(sign(content))


def test_a_plan_of_an_earlier_version_is_the_one_of_its_training(
    run: Path, records: list[dict], report_text: Callable[[Path], str]
) -> None:
    content = json.loads((run / "plan.json").read_text())
    for name in ("format", "version", "sha256"):
        del content[name]
    content["budget"]["aligned"] = content["budget"].pop("patterns") is not None
    records[0] |= {"plan_sha256": plan_file._digest(content)}
    header = {"format": plan_file.FORMAT, "version": 7, "sha256": records[0]["plan_sha256"]}
    (run / "plan.json").write_text(json.dumps(header | content))
    write(run, records)
    assert "8 steps" in report_text(run)


def without_its_plan(folder: Path, records: list[dict]) -> None:
    (folder / "plan.json").unlink()


def beside_another(**settings: object):
    def edit(folder: Path, records: list[dict]) -> None:
        (folder / "dense").mkdir()
        shutil.copy(folder / "plan.json", folder / "dense")
        other = dense_of(records)
        other[0]["settings"] |= settings
        write(folder / "dense", other)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited(0, format="other"), "metrics.jsonl: line 1: format is not 'd2ft-metrics'"),
        (edited(0, version=9), "metrics.jsonl: is of version 9"),
        (edited(0, event="resumed", step=1), "metrics.jsonl: line 1: event must be 'started'"),
        (edited(0, num_ranks=0), "line 1: started.num_ranks is 0"),
        (edited(4, event="slept"), "line 5: content is"),
        (edited(4, step_s=-1.0), "line 5: stepped.step_s is -1.0"),
        (edited(4, times={}), "line 5: stepped.times.lanes_s is missing"),
        (edited(-1, top1=2), "evaluated.top1 is 2"),
        (scribbled, "metrics.jsonl: line 2: is not an event"),
        (without_steps, "metrics.jsonl: has no step yet"),
        (with_a_step_left_out, "metrics.jsonl: is damaged: its steps do not follow one another"),
        (of_another_plan, "plan.json: is another plan than the one that metrics.jsonl"),
        (without_its_plan, "plan.json: cannot be read (No such file"),
        (beside_another(dense=False), "dense/metrics.jsonl: was not trained with --dense"),
        (beside_another(num_epochs=9), "dense/metrics.jsonl: was trained with num_epochs 9"),
    ],
)
def test_a_damaged_folder_is_one_line_and_nothing_is_written(
    refused_report, run: Path, records: list[dict], edit, said: str
) -> None:
    edit(run, records)
    refused_report(run, said)
