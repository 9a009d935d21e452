"""What ``d2ft --version`` tells a bug report."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from analysis.version_facts import version_lines

COMMAND = (
    "import sys; from analysis import cli; sys.argv = ['d2ft', '--version']\n"
    "try: cli.main()\n"
    "except SystemExit as e: assert not e.code, e.code\n"
    "heavy = {'torch', 'timm', 'ortools', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    "assert not heavy, heavy"
)


def test_versions_and_devices_without_a_heavy_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("d2ft ")
    for name in ("torch", "ortools", "timm"):
        assert f"{name} {version(name)}" in lines
    assert any(line.startswith("cpu ") and "cores" in line for line in lines)
    assert any(line.startswith("gpu ") for line in lines)


def test_gpus_are_named_as_the_driver_names_them(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX  Kernel Module  550.1\nGCC\n")
    for i in range(2):
        (tmp_path / "gpus" / str(i)).mkdir(parents=True)
        information = tmp_path / "gpus" / str(i) / "information"
        information.write_text(f"Model: \t\t NVIDIA T{i}\nIRQ:   \t\t 1\n")
    assert version_lines(tmp_path)[-3:] == [
        "gpu NVIDIA T0",
        "gpu NVIDIA T1",
        "driver NVIDIA UNIX Kernel Module 550.1",
    ]
