"""Streams, encodings, folders and variables that a process may be given: no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = """
name: "京都 \\u202e\\x1b[31m"
devices:
  - {name: ä, compute_flops_per_s: 1e12, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
  - {name: b, compute_flops_per_s: 5e11, memory_bytes: 8 GB, memory_bandwidth_bytes_per_s: 1e11}
network: {kind: full_mesh, bandwidth_bytes_per_s: 1e9, latency_s: 1e-5}
"""


def shell(command: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Run ``d2ft`` as a shell does; exit code and both streams."""
    done = subprocess.run(
        ["bash", "-c", command.replace("d2ft", f"{sys.executable} -m analysis.cli")],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


PLAN = (
    "d2ft plan --cluster c.yaml --model vit_tiny_patch16_224 --image-size 32 --microbatch-size 2 "
    "--placement round-robin"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(CLUSTER, encoding="utf-8")
    return tmp_path


def test_a_terminal_without_other_letters(folder: Path) -> None:
    code, out, err = shell(PLAN, folder, PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "\\u4eac\\u90fd \\u202e\\x1b[31m" in out
    code, out, err = shell(
        f"{PLAN} && d2ft plot topology plan.json --out x.svg && d2ft plan --cluster 京都.yaml",
        folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
    )  # fmt: skip
    assert code == 2
    assert err.startswith("d2ft: ")
    assert err.isascii()
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_full_standard_output(folder: Path, option: str) -> None:
    code, _, err = shell(f"{PLAN} {option} >/dev/full", folder)
    assert code == 2
    assert err == "d2ft: standard output cannot be written (No space left on device)\n"


def test_closed_streams_and_readers_that_leave(folder: Path) -> None:
    assert shell(f"{PLAN} --solver highs >&-", folder) == (0, "", "")
    assert shell("d2ft plan --cluster none.yaml >&- 2>&-", folder) == (2, "", "")
    code, _, err = shell(f"{PLAN} --json | true", folder)
    assert (code, err) == (0, "")


def test_a_backend_of_pictures_that_is_not_there(folder: Path) -> None:
    code, _, err = shell(f"{PLAN} && d2ft plot timeline plan.json", folder, MPLBACKEND="none.such")
    assert (code, err) == (0, "")


def test_a_working_directory_that_was_deleted(folder: Path) -> None:
    code, _, err = shell(
        "mkdir gone && cd gone && rmdir ../gone && d2ft diff a.json b.json", folder
    )
    assert code == 2
    assert err.startswith("d2ft: the working directory is gone")
