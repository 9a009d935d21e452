"""``metrics.jsonl``: what happened in a training, one JSON object per line.

The first line says where the file comes from (event ``started``); then come the events of
`runtime.training.events` by their names in lower case, and ``resumed`` where training went on from
a checkpoint. Every step is in the file once, in order.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.console.cells import Table, number_cell
from analysis.console.formatting import percent, quantity, three_digits
from analysis.console.output import finite
from analysis.results.line_file import LineFile
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.files.schema import parse_json

if TYPE_CHECKING:
    from runtime.training.events import Event

METRICS = "metrics.jsonl"
FORMAT = "d2ft-metrics"
VERSION = 2
READABLE = (1, VERSION)

Record = dict[str, Any]


class MetricsFile:
    """A file that grows line by line; each is on its way to disk when `add` returns."""

    def __init__(self, path: Path, records: Sequence[Record]) -> None:
        """Begin with these records, in place of a file that may be there.

        Raises:
            InputError: it cannot be written.
        """
        write_text(path, "".join(f"{_line(record)}\n" for record in records))
        self.records = list(records)
        self._file = LineFile(path)

    def add(self, event: "Event") -> None:
        """Append a line.

        Raises:
            InputError: it cannot be written.
        """
        record = {"event": type(event).__name__.lower(), **asdict(event)}
        self._file.add(_line(record))
        self.records.append(record)

    def close(self) -> None:
        self._file.close()


def started(**facts: Any) -> Record:
    """The first line."""
    return {"event": "started", "format": FORMAT, "version": VERSION, **facts}


def read_records(path: Path) -> Iterator[Record]:
    """Every line, as it is asked for.

    A last line that was not written to its end is left out. Version 1 did not say after which step
    an evaluation was: after the one written before it.

    Raises:
        InputError: the file cannot be read, is damaged, or not one of metrics.
    """
    check_named(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read") from None
    done = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except InputError:
            record = None
        if not isinstance(record, dict) or "event" not in record:
            if number == len(lines) > 1:
                return
            raise InputError(f"{path}: line {number}: is not an event as a JSON object")
        if number == 1 and record.get("format") != FORMAT:
            raise InputError(f"{path}: line 1: format is not {FORMAT!r}")
        if number == 1 and record.get("version") not in READABLE:
            raise InputError(
                f"{path}: is of version {record.get('version')!r}; this d2ft reads "
                f"{' and '.join(map(str, READABLE))}"
            )
        if record["event"] == "stepped":
            done = record.get("step", done)
        yield {"step": done} | record if record["event"] == "evaluated" else record


def records_until(path: Path, step: int) -> list[Record]:
    """What a training had written when `step` steps were done; nothing if there is no such file.

    Raises:
        InputError: as `read_records`.
    """
    if not path.exists():
        return []
    records: list[Record] = []
    for record in read_records(path):
        event = record["event"]
        is_later = event == "stepped" and record["step"] > step
        if is_later or (event == "evaluated" and step == 0):
            break
        records.append(record)
        if event == "stepped" and record["step"] == step:
            break
    return records


def epoch_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row per evaluation: epoch, mean loss, seconds and FLOPs of the steps since the one before
    it, test accuracy, loss and, where tokens are foretold, perplexity.

    `train_loss` and `train_s` are None before the first step; epoch 0 is before training.
    """
    rows: list[dict[str, Any]] = []
    before = 0
    for evaluation in (r for r in records if r["event"] == "evaluated"):
        stepped = (r for r in records if r["event"] == "stepped")
        steps = [r for r in stepped if before < r["step"] <= evaluation["step"]]
        before = evaluation["step"]
        losses = [np.nan if s["loss"] is None else s["loss"] for s in steps]
        rows.append(
            {
                "epoch": evaluation["epoch"],
                "step": evaluation["step"],
                "train_loss": float(np.mean(losses)) if losses else None,
                "test_accuracy": evaluation["top1"],
                "test_loss": evaluation["loss"],
                "test_top5": evaluation.get("top5"),
                "class_accuracy": evaluation.get("class_top1"),
                "test_perplexity": evaluation.get("perplexity"),
                "train_s": sum(s["step_s"] for s in steps) if steps else None,
                "flops": sum(s["flops"] for s in steps),
            }
        )
    return rows


def epoch_table(caption: str, trainings: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Loss, accuracy and cost until every evaluation: `epoch_rows` of trainings by their titles."""
    every = [row for rows in trainings.values() for row in rows]
    foretells = any(row["test_perplexity"] is not None for row in every)
    has_top5 = any(row["test_top5"] is not None for row in every)
    columns = [
        "epoch",
        "training loss, mean",
        *(["test perplexity"] if foretells else []),
        "test tokens right" if foretells else "test accuracy, top-1",
        *(["top-5"] if has_top5 else []),
        "steps, measured",
        "FLOPs",
    ]
    groups = tuple(
        (
            title,
            tuple(
                (
                    number_cell(row["epoch"], lambda v: f"{v:.4g}"),
                    number_cell(row["train_loss"], lambda v: f"{v:.4f}"),
                    *([number_cell(row["test_perplexity"], three_digits)] if foretells else []),
                    number_cell(row["test_accuracy"], percent),
                    *([number_cell(row["test_top5"], percent)] if has_top5 else []),
                    number_cell(row["train_s"], lambda v: quantity(v, "s")),
                    number_cell(row["flops"] or None, lambda v: quantity(v, "FLOP")),
                )
                for row in rows
            ),
        )
        for title, rows in trainings.items()
        if rows
    )
    return Table(caption, tuple(columns), groups)


def describe_epoch_0(records: Sequence[Record]) -> str:
    """What the evaluation before training is of."""
    if any(record["event"] == "probed" for record in records):
        return (
            "Epoch 0 is before the first step: the model as it was given, its classifier fitted on "
            "frozen features (a linear probe)"
        )
    return "Epoch 0 is before the first step: the model as it was given"


def describe_classes(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The classes that the last test found hardest and easiest; None where there are no classes, or
    too few to choose."""
    shares = rows[-1]["class_accuracy"] if rows else None
    if shares is None:
        return None
    known = sorted((s, n) for s, n in zip(shares, names, strict=False) if s is not None)
    if len(known) <= 2:
        return None
    hard, easy = known[:2], known[-1:]
    said = [", ".join(f"{name} {percent(share)}" for share, name in part) for part in (hard, easy)]
    return f"Top-1 by class, of {len(known)}: lowest {said[0]}; highest {said[1]}"


def solver_share(records: Sequence[Record]) -> float | None:
    """Part of the seconds of all steps that choosing their schedules took; None without steps."""
    steps = [r for r in records if r["event"] == "stepped"]
    if not steps:
        return None
    return float(sum(s["solve_s"] for s in steps) / sum(s["step_s"] for s in steps))


def _line(record: Record) -> str:
    return json.dumps(finite(record), allow_nan=False)
