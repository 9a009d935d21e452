"""Ranks that cannot train together end at once, and the user reads one line, the option named."""

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from rank_processes import endings_on_ranks, free_port, run_command, start_ranks, torchrun
from runtime.ranks import ended_jobs, rank_store
from runtime.ranks.ended_jobs import find_note, leave_note

ANSWER_S = 120
"""Far above what a job that ends at once takes on a busy machine, and far below its time-out."""


@pytest.fixture
def given(noise_pictures) -> list[object]:
    return [
        "--data", f"imagefolder:{noise_pictures}", "--image-size", 32, "--device", "cpu",
        "--epochs", 1, "--no-linear-probe", "--schedule", "fixed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--replan-every", 5], "--replan-every is 5 on rank 1 and not given on rank 0"),
        (["--checkpoint-dir", "elsewhere"], "--checkpoint-dir is elsewhere on rank 1"),
    ],
)
def test_the_option_that_differs_is_named(even_plan, given, tmp_path, more, name):
    job = ["finetune", even_plan, *given, "--out", tmp_path / "out"]
    codes, lines = endings_on_ranks(tmp_path, job, [*job, *more])
    assert sorted(codes) == [1, 2]
    (line,) = lines
    assert name in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_usage_error_on_one_rank_ends_the_other(even_plan, given, tmp_path, wrong):
    jobs = [["finetune", even_plan, *given, "--out", tmp_path / "out"] for _ in (0, 1)]
    jobs[wrong] += ["--epochs", "many"]
    codes, lines = endings_on_ranks(tmp_path, *jobs)
    assert (codes[wrong], codes[1 - wrong]) == (2, 1)
    (line,) = lines
    assert line.startswith("d2ft: --epochs is 'many'")


@pytest.mark.parametrize("wrong", [0, 1])
def test_who_comes_when_the_refusing_rank_has_gone_ends(even_plan, given, tmp_path, wrong):
    commands = [[*map(str, ["finetune", even_plan, *given])] for _ in (0, 1)]
    commands[wrong] += ["--epochs", "0"]
    arguments = {"port": free_port(), "arguments": commands, "wrong": wrong}
    processes = start_ranks(_come_in_turn, 2, tmp_path, **arguments)
    processes[wrong].join(ANSWER_S)
    (tmp_path / "gone").touch()
    processes[1 - wrong].join(ANSWER_S)
    assert (processes[wrong].exitcode, processes[1 - wrong].exitcode) == (2, 1)
    said = "".join((tmp_path / f"stderr-{rank}").read_text() for rank in (0, 1))
    assert said.count("d2ft: ") == 1
    assert "d2ft: --epochs is '0'" in said


def _come_in_turn(rank, num_ranks, folder, *, port, arguments, wrong):
    if rank == wrong:
        rank_store.LINGER_S = 0.2
    else:
        while not (folder / "gone").exists():
            time.sleep(0.05)
    run_command(rank, num_ranks, folder, port=port, arguments=arguments[rank])


def test_a_note_is_of_jobs_that_had_begun(monkeypatch):
    port = free_port()
    leave_note("127.0.0.1", port, "the plan is gone")
    assert find_note("127.0.0.1", port) == "the plan is gone"
    assert find_note("127.0.0.1", port + 1) is None
    monkeypatch.setattr(ended_jobs, "_began", lambda: time.time() + 1)
    assert find_note("127.0.0.1", port) is None


def test_the_same_usage_error_is_said_once(even_plan, tmp_path):
    codes, lines = endings_on_ranks(tmp_path, *[["finetune", even_plan, "--epochs", "many"]] * 2)
    assert codes == [2, 2]
    assert len(lines) == 1


@pytest.fixture(params=["silent", "talking", "of another job"])
def taken_port(request) -> Iterator[int]:
    if request.param == "of another job":
        import torch.distributed as dist

        store = dist.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
        dist.PrefixStore("d2ft/0", store).add("came/1", 1)
        yield store.port
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        if request.param == "silent":
            yield port
            return
        server = subprocess.Popen(
            [
                sys.executable, "-c",
                "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\n"
                "while True:\n    c, _ = s.accept(); c.send(b'hello'); c.close()",
                str(listening.fileno()),
            ],
            pass_fds=[listening.fileno()],
        )  # fmt: skip
        yield port
        server.kill()
        server.wait()


def test_at_a_taken_port_every_rank_ends_at_once(even_plan, given, tmp_path, taken_port):
    job = ["finetune", even_plan, *given, "--out", tmp_path / "out"]
    codes, lines = endings_on_ranks(tmp_path, job, job, port=taken_port)
    assert codes == [1, 1]
    (line,) = lines
    assert f"port {taken_port} of 127.0.0.1 is" in line
    assert "--master-port" in line


def test_a_full_disk_under_the_metrics_ends_all_in_one_line(even_plan, given, tmp_path):
    job = ["finetune", even_plan, *given, "--epochs", 40, "--out", tmp_path / "out"]
    processes = start_ranks(
        _with_a_full_disk, 2, tmp_path, port=free_port(), arguments=[*map(str, job)]
    )
    for process in processes:
        process.join(timeout=ANSWER_S)
    assert [process.exitcode for process in processes] == [2, 1]
    said = "".join((tmp_path / f"stderr-{rank}").read_text() for rank in (0, 1))
    (line,) = [line for line in said.splitlines() if line.startswith("d2ft: ")]
    assert "metrics.jsonl: cannot be written (No space left on device)" in line
    assert "Traceback" not in said


def _with_a_full_disk(rank: int, num_ranks: int, folder: Path, **given: Any) -> None:
    """The metrics of the third step and later do not fit on it."""
    write = os.write
    num_steps = 0

    def full(file: int, content: Any) -> int:
        nonlocal num_steps
        num_steps += b'"stepped"' in bytes(content)
        if num_steps > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, content)

    with patch("analysis.results.line_file.os.write", full):
        run_command(rank, num_ranks, folder, **given)


def installed_command(folder: Path) -> Path:
    """The command ``d2ft``, as an installer makes it."""
    folder.mkdir()
    command = folder / "d2ft"
    command.write_text(f"#!{sys.executable}\nfrom analysis.cli import main\nmain()\n")
    command.chmod(0o755)
    return command


def launch(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``torchrun --no-python ... d2ft ...`` in a folder with packages of d2ft's names."""
    for name in ("analysis", "sim", "runtime"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('not the package')\n")
    path = f"{installed_command(folder / 'bin').parent}{os.pathsep}{os.environ['PATH']}"
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [
            sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--no-python",
            "--nproc-per-node", "2", "d2ft", *map(str, arguments),
        ],
        cwd=folder, capture_output=True, text=True, timeout=ANSWER_S, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_torchrun_starts_the_command_in_any_folder(even_plan, given, tmp_path):
    done = launch(tmp_path, "finetune", even_plan, *given, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert '"num_ranks": 2' in (tmp_path / "out" / "metrics.jsonl").read_text()


def test_torchruns_report_ends_with_our_line(even_plan, given, tmp_path):
    agent = torchrun(2, tmp_path, "finetune", even_plan, *given, "--image-size", 64)
    agent.join(ANSWER_S)
    assert agent.exitcode not in (None, 0)
    report = (tmp_path / "stderr-0").read_text().splitlines()
    ours = [line for line in report if line.startswith("d2ft: ")]
    assert len(ours) == 1
    (last,) = [line for line in report if line.strip().startswith("traceback")][-1:]
    assert last.partition(":")[2].strip() == ours[0]
