"""Run directories: what is written reads back, and what is wrong is named in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.results.run_dir import Run, load_run
from analysis.results.run_records import EpochMeasurement
from d2ft_sched.errors import InputError


def test_a_run_reads_back_as_it_was_written(run: Run, run_dir: Path) -> None:
    loaded = load_run(run_dir)
    assert loaded.plan == run.plan
    assert loaded.prediction == run.prediction
    assert loaded.measurement == run.measurement
    assert loaded.provenance == run.provenance
    for name, timeline in run.timelines.items():
        pd.testing.assert_frame_equal(loaded.timelines[name], timeline)


def test_a_loss_that_is_not_finite_is_kept_as_none() -> None:
    epoch = EpochMeasurement(
        epoch=1, train_loss=float("nan"), test_accuracy=0.1, train_s=1.0, flops=1.0
    )
    assert epoch.train_loss is None


@pytest.mark.parametrize(
    "file",
    [
        "plan.json",
        "prediction.json",
        "measurement.json",
        "timeline_dense.csv",
        "timeline_plan.csv",
        "provenance.json",
    ],
)
def test_a_missing_or_cut_file_is_named(run_dir: Path, file: str) -> None:
    text = (run_dir / file).read_text()
    (run_dir / file).write_text(text[: len(text) * 2 // 3 - 20])
    if not file.startswith("timeline"):
        _refused(run_dir, file)
    (run_dir / file).write_bytes(b"\xff\xfe\x00")
    _refused(run_dir, file)
    (run_dir / file).unlink()
    _refused(run_dir, file)


def _refused(run_dir: Path, *words: str) -> None:
    with pytest.raises(InputError) as refusal:
        load_run(run_dir)
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def _with(path: tuple[str | int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        if value is KeyError:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("prediction.json", _with(("version",), 3), ("version is 3", "update d2ft")),
        ("measurement.json", _with(("format",), "d2ft-plan"), ("format is 'd2ft-plan'",)),
        ("measurement.json", _with(("device",), KeyError), ("device is missing",)),
        ("measurement.json", _with(("steps", "plan"), KeyError), ("steps has no run 'plan'",)),
        ("measurement.json", _with(("training", "plan", "epochs"), []), ("training.plan.epochs",)),
        (
            "measurement.json",
            _with(("steps", "dense", "step_s"), "fast"),
            ("steps.dense.step_s is 'fast'",),
        ),
        (
            "measurement.json",
            _with(("steps", "dense", "step_s"), float("inf")),
            ("steps.dense.step_s is inf",),
        ),
        (
            "prediction.json",
            _with(("cluster", "plan", "devices", 1, "name"), "tpu"),
            ("cluster.plan has devices", "tpu", "plan.json"),
        ),
        (
            "prediction.json",
            _with(("this_device", "fewer"), KeyError),
            ("this_device has no run 'fewer'",),
        ),
        ("provenance.json", _with(("seed",), [1]), ("seed is [1]",)),
    ],
)
def test_a_wrong_field_is_named(
    run_dir: Path, file: str, change: Callable[[dict[str, Any]], None], words: tuple[str, ...]
) -> None:
    content = json.loads((run_dir / file).read_text())
    change(content)
    (run_dir / file).write_text(json.dumps(content))
    _refused(run_dir, file, *words)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("timeline_plan.csv", "resource", "device", ("the first line must be wave,",)),
        ("timeline_plan.csv", "forward,0,trunk,a100,0.0,", "forward,0,trunk,a100,soon,",
         ("line 2", "start_s is 'soon'")),
        ("timeline_plan.csv", "forward,0,trunk,a100,0.0,", "forward,0,trunk,a100,9.0,",
         ("line 2", "end_s is before start_s")),
    ],
)  # fmt: skip
def test_a_wrong_line_of_a_table_is_named(
    run_dir: Path, file: str, old: str, new: str, words: tuple[str, ...]
) -> None:
    text = (run_dir / file).read_text()
    assert old in text
    (run_dir / file).write_text(text.replace(old, new, 1))
    _refused(run_dir, file, *words)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere", "nowhere", "is not a run directory")
