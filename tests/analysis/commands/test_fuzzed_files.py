"""Cluster, plan and study files that are wrong in ways nobody thought of: never a traceback."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import cli
from d2ft_sched.plan.plan_file import sign

SHAPE = {
    "name": "small", "num_blocks": 2, "num_heads": 2, "head_dim": 4, "width": 8, "mlp_hidden": 16,
    "num_tokens": 5,
}  # fmt: skip
DEVICE = {
    "compute_flops_per_s": 1e12, "memory_bytes": "8 GB", "memory_bandwidth_bytes_per_s": 1e11,
}  # fmt: skip
CLUSTER = {
    "name": "three",
    "devices": [
        {"name": "a", **DEVICE},
        {"name": "b", "count": 1, **DEVICE},
        {"name": "c", "preset": "t4"},
    ],
    "network": {
        "kind": "star", "bandwidth_bytes_per_s": "1 Gbit/s", "latency_s": "50 us",
    },
}  # fmt: skip
STUDY = {
    "name": "small",
    "data": {
        "name": "imagefolder:nowhere", "num_train": 12, "num_test": 4, "image_size": 32,
        "num_classes": 2,
    },
    "model": {"name": "vit_tiny_patch16_224", "weights": None},
    "minibatch": {"num_microbatches": 3, "microbatch_samples": 2},
    "training": {"num_epochs": 1, "learning_rate": 1e-3},
    "seeds": [0, 1],
    "clusters": ["cluster.yaml"],
    "budgets": [{"compute": 0.6}, {"step_time": 0.5}],
    "methods": [
        {"name": "dense", "kind": "dense"},
        {"name": "d2ft", "kind": "schedule", "solver": "dp", "without": ["a"]},
    ],
}  # fmt: skip

# No number in between: a valid file of a hundred thousand devices is slow, not wrong.
NUMBERS = st.one_of(st.integers(-3, 5), st.sampled_from([10**9, 10**30, -(10**400)]), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=6))
NAMES = st.sampled_from(
    ["name", "count", "file", "preset", "kind", "links", "a", "devices", "compute_flops_per_s"]
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a document."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """The document with one to three places replaced, removed, added or moved."""
    document = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            return draw(JUNK)
        *path, key = draw(st.sampled_from(found))
        holder = document
        for step in path:
            holder = holder[step]
        action = draw(st.sampled_from(["replace", "remove", "add", "double"]))
        if action == "replace":
            holder[key] = draw(JUNK)
        elif action == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]) if action == "double" else draw(JUNK))
        else:
            holder[draw(NAMES)] = deepcopy(holder[key]) if action == "double" else draw(JUNK)
    return document


@st.composite
def scribbled(draw: st.DrawFn, text: str) -> str:
    """The text with a piece cut out and something else in its place."""
    start = draw(st.integers(0, len(text)))
    stop = draw(st.integers(start, min(len(text), start + 40)))
    return text[:start] + draw(st.text(max_size=8)) + text[stop:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "shape.yaml").write_text(yaml.safe_dump(SHAPE))
    (folder / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    assert run("plan", *plan_options(folder, "cluster.yaml")) == 0
    return folder


def plan_options(folder: Path, cluster: str) -> list[object]:
    return [
        "--cluster", folder / cluster, "--model", folder / "shape.yaml", "--microbatches", 3,
        "--microbatch-size", 2, "--budget-compute", 0.6, "--out", folder / "plan.json",
    ]  # fmt: skip


def run(*arguments: object) -> int:
    """The exit code; a bad input's is 2 and its message one line."""
    err = io.StringIO()
    with (
        patch.object(sys, "argv", ["d2ft", *map(str, arguments)]),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    code = int(ended.value.code or 0)
    if code:
        assert code == 2
        said = [line for line in err.getvalue().split("\n") if line.startswith("d2ft: ")]
        assert len(said) == 1, err.getvalue()
        assert err.getvalue().endswith(said[0] + "\n")
    return code


FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", errors="replace")
    return path


@FUZZ
@given(document=changed(CLUSTER))
def test_cluster_files(folder: Path, document: Any) -> None:
    write(folder / "bad.yaml", yaml.safe_dump(document))
    options = plan_options(folder, "bad.yaml")
    run("plan", *options[:-1], folder / "other.json")


@FUZZ
@given(text=scribbled(yaml.safe_dump(CLUSTER)))
def test_cluster_files_with_typing_errors(folder: Path, text: str) -> None:
    write(folder / "bad.yaml", text)
    options = plan_options(folder, "bad.yaml")
    run("plan", *options[:-1], folder / "other.json")


@FUZZ
@given(data=st.data())
def test_plan_files(folder: Path, data: st.DataObject) -> None:
    document = data.draw(changed(json.loads((folder / "plan.json").read_text())))
    run("simulate", write(folder / "bad.json", json.dumps(document)), "--top", 0)


@FUZZ
@given(data=st.data())
def test_plan_files_with_typing_errors(folder: Path, data: st.DataObject) -> None:
    text = data.draw(scribbled((folder / "plan.json").read_text()))
    run("diff", folder / "plan.json", write(folder / "bad.json", text))


@FUZZ
@given(data=st.data())
def test_plan_files_that_were_signed_again(folder: Path, data: st.DataObject) -> None:
    """As if another program had written them."""
    content = json.loads((folder / "plan.json").read_text())
    for name in ("format", "version", "sha256"):
        del content[name]
    document = data.draw(changed(content))
    if isinstance(document, dict):
        run("simulate", write(folder / "bad.json", sign(document)), "--top", 0)


@FUZZ
@given(document=changed(STUDY))
def test_study_files(folder: Path, document: Any) -> None:
    """The pictures are nowhere: a study that is otherwise right ends there."""
    path = write(folder / "bad.yaml", yaml.safe_dump(document))
    assert run("study", path, "--out", folder / "study") == 2


@FUZZ
@given(text=scribbled(yaml.safe_dump(STUDY)))
def test_study_files_with_typing_errors(folder: Path, text: str) -> None:
    path = write(folder / "bad.yaml", text)
    assert run("study", path, "--out", folder / "study") == 2
