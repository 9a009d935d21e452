"""What terminal and report show of a training, from the lines of its metrics."""

from pathlib import Path

import pytest

from analysis.finetuning.metrics_file import epoch_rows, epoch_table, read_records

METRICS = Path(__file__).parents[3] / "docs/results/replan/undisturbed_seed0.metrics.jsonl"
EVALUATED = {
    "event": "evaluated", "epoch": 0, "step": 0, "top1": 0.5, "loss": 2.0, "top5": None,
    "class_top1": None, "perplexity": None,
}  # fmt: skip
STEPPED = {"event": "stepped", "step": 1, "loss": 1.5, "step_s": 0.25, "flops": 2e9}


def test_metrics_of_the_first_version_have_a_table() -> None:
    table = epoch_table("t", {"": epoch_rows(list(read_records(METRICS)))})
    assert "top-5" not in table.columns
    ((_, rows),) = table.texts
    assert rows[0][:3] == ["0", "—", "81.5\N{NO-BREAK SPACE}%"]


@pytest.mark.parametrize(
    ("judged", "columns", "last"),
    [
        ({}, ["test accuracy, top-1"], ["50.0\N{NO-BREAK SPACE}%"]),
        (
            {"top5": 0.9},
            ["test accuracy, top-1", "top-5"],
            ["50.0\N{NO-BREAK SPACE}%", "90.0\N{NO-BREAK SPACE}%"],
        ),
        (
            {"perplexity": 7.389},
            ["test perplexity", "test tokens right"],
            ["7.39", "50.0\N{NO-BREAK SPACE}%"],
        ),
    ],
)
def test_a_table_has_what_was_judged(judged: dict, columns: list, last: list) -> None:
    after = {**EVALUATED, **judged, "epoch": 0.5, "step": 1}
    table = epoch_table("t", {"a": epoch_rows([EVALUATED, STEPPED, after]), "b": []})
    assert list(table.columns[2:-2]) == columns
    ((title, rows),) = table.texts
    assert title == "a"
    assert rows[1][:2] == ["0.5", "1.5000"]
    assert rows[1][2:] == [*last, "250\N{NO-BREAK SPACE}ms", "2.00\N{NO-BREAK SPACE}GFLOP"]
