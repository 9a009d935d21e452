"""No reader of a file waits for a pipe or reads a device to its end."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.finetuning.metrics_file import read_records
from analysis.results.run_dir import read_json_object
from analysis.results.table_file import read_table
from analysis.studying.study_table import load_table
from analysis.sweeping.sweep_journal import Journal
from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import read_yaml
from d2ft_sched.plan.plan_file import load_plan
from d2ft_sched.problem.scores import load_scores
from runtime.checkpoint.checkpoint import load_checkpoint
from runtime.data.texts import text_source
from runtime.families.read_weights import read_safetensors
from runtime.scoring.score_file import load_minibatch_scores

READERS: dict[str, Callable[[Path], object]] = {
    "yaml": read_yaml,
    "plan": load_plan,
    "scores": lambda path: load_scores(path, 1, 1),
    "table": lambda path: read_table(path, (), "d2ft"),
    "study": lambda path: load_table(path, ()),
    "metrics": lambda path: list(read_records(path)),
    "journal": Journal,
    "run": read_json_object,
    "weights": read_safetensors,
    "mini-batch scores": lambda path: load_minibatch_scores(path, (1, 1, 1), ("a", "b")),
    "texts": lambda path: text_source(f"texts:{path}"),
    "checkpoint": lambda path: load_checkpoint(path.parent),
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_pipes_and_devices_are_refused(tmp_path, read, kind):
    path = tmp_path / "checkpoint.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"it is a {kind}, not a file"):
        read(path)
