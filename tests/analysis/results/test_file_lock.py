"""Folders that two commands would write to at once: the second is told who is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.results.file_lock import alone_in
from d2ft_sched.errors import InputError

MODEL = ["--model", "vit_tiny_patch16_224", "--image-size", 32]


def test_the_second_is_told_who_holds_the_folder(tmp_path):
    out = tmp_path / "new" / "out"
    with alone_in(out, "--out"):
        with (
            pytest.raises(InputError, match=rf"out: process {os.getpid()} on .* another --dir$"),
            alone_in(out, "--dir"),
        ):
            raise AssertionError("both are in")
        (out / "result").write_text("")
    assert [p.name for p in out.iterdir()] == ["result"]
    with alone_in(tmp_path / "other", "--out"):
        pass
    assert not (tmp_path / "other").exists()


def test_a_folder_is_free_after_a_death_and_under_any_name(tmp_path):
    code = """
import os, sys, pathlib
from analysis.results.file_lock import alone_in
with alone_in(pathlib.Path(sys.argv[1]), "--out"):
    os._exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")]).returncode == 7
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with (
        alone_in(tmp_path / "a", "--out"),
        pytest.raises(InputError, match=f"process {os.getpid()} on"),
        alone_in(tmp_path / "link", "--out"),
    ):
        pass


@pytest.mark.parametrize("command", ["sweep", "demo", "finetune"])
def test_commands_do_not_mix_their_results(d2ft, two_equal, tiny_vit, tmp_path, command):
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    given = {
        "sweep": ["--cluster", two_equal, *MODEL, "--no-plots"],
        "demo": ["--model", tiny_vit, "--image-size", 32],
        "finetune": [plan, "--data", "mnist-subset"],
    }
    if command == "finetune":
        made = d2ft("plan", "--cluster", two_equal, "--model", tiny_vit, "--out", plan)
        assert made[0] == 0, made
    with alone_in(out, "--out"):
        code, _, err = d2ft(command, *given[command], "--out", out)
    assert code == 2
    assert f"{out}: process {os.getpid()} on" in err
    assert not out.exists()


def test_checkpoints_of_two_trainings_are_not_written_into_one_folder(
    d2ft, two_equal, tiny_vit, tmp_path
):
    plan, shared = tmp_path / "plan.json", tmp_path / "shared"
    assert d2ft("plan", "--cluster", two_equal, "--model", tiny_vit, "--out", plan)[0] == 0
    with alone_in(shared, "--checkpoint-dir"):
        code, _, err = d2ft("finetune", plan, "--out", tmp_path / "out", "--checkpoint-dir", shared)
    assert code == 2
    assert f"{shared}: process {os.getpid()} on" in err
    assert "another --checkpoint-dir" in err
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_said(tmp_path):
    Path(tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="file: cannot be written"),
        alone_in(tmp_path / "file", "--out"),
    ):
        pass
