"""Bad input to every command: one clear line, exit code 2, no traceback, nothing written.

Every row is a real command line, run in a folder that has good files of every kind (`GOOD`, and a
plan made from them) beside the bad ones that the row of `bad_input_table` brings.
"""

import contextlib
import hashlib
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from analysis import cli
from analysis.results.run_dir import Run, save_run
from bad_input_table import GOOD, PLAN, TABLE


@pytest.fixture(scope="module")
def workplace(
    d2ft_code: Callable[..., int], run: Run, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with good files of every kind, and what is damaged beyond a row's text."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, text in GOOD.items():
        (folder / name).write_text(text)
    rng = np.random.default_rng(0)
    for kind in ("bright", "dark"):
        (folder / "pictures" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / kind / f"{i}.png")
        (folder / "cut" / kind).mkdir(parents=True)
        for i in range(6):
            whole = (folder / "pictures" / kind / f"{i}.png").read_bytes()
            (folder / "cut" / kind / f"{i}.png").write_bytes(whole if i else whole[:60])
    (folder / "damaged").mkdir()
    (folder / "damaged" / "runs.csv").write_text("")
    save_run(run, folder / "damaged-run")
    measurement = folder / "damaged-run" / "measurement.json"
    measurement.write_text(measurement.read_text()[:500])
    for name, more in (
        ("plan.json", "--budget-compute 0.6"),
        ("other.json", "--model vit_small_patch16_224 --budget-compute 0.6"),
        ("vast.json", "--cluster vast.yaml --image-size 224 --microbatch-size 20000"),
    ):
        given = [*shlex.split(f"{PLAN} {more}"), "--num-classes", 2]
        with contextlib.chdir(folder):
            assert d2ft_code(*given, "--out", name) == 0
    return folder


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file, and every folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def lay_out(row: Any, folder: Path) -> tuple[list[str], str]:
    """The command line and what it must say; the row's own files are written."""
    for name, content in (row[2] if len(row) == 3 else {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return shlex.split(row[0]), row[1]


def check(row: Any, folder: Path, code: int, out: str, err: str, before: dict[str, str]) -> None:
    said = [line for line in err.splitlines() if line.startswith("d2ft: ")]
    assert len(said) == 1, err
    assert err.splitlines()[-1] == said[0]
    assert row[1] in said[0]
    assert "Traceback" not in err
    assert (code, out) == (2, "")
    assert contents(folder) == before


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_is_one_line_and_exit_code_2(
    d2ft: Callable[..., tuple[int, str, str]],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(workplace)
    arguments, _ = lay_out(TABLE[name], workplace)
    before = contents(workplace)
    code, out, err = d2ft(*arguments)
    check(TABLE[name], workplace, code, out, err, before)


@pytest.mark.parametrize("name", ["unknown option", "link to nobody", "factor of nobody"])
def test_as_a_process_too(workplace: Path, name: str) -> None:
    arguments, _ = lay_out(TABLE[name], workplace)
    before = contents(workplace)
    done = subprocess.run(
        [sys.executable, "-m", "analysis.cli", *arguments],
        cwd=workplace, capture_output=True, text=True, check=False,
    )  # fmt: skip
    check(TABLE[name], workplace, done.returncode, done.stdout, done.stderr, before)


def test_every_command_is_in_the_table() -> None:
    assert len(TABLE) >= 60
    counted = Counter(row[0].split()[0] for row in TABLE.values())
    commands = set(typer.main.get_command(cli.app).commands)
    assert commands - {name for name, count in counted.items() if count >= 3} == set()
