"""A disk that fills up under a growing file: one line, and what was written before stays."""

import errno
import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from analysis.results.line_file import LineFile
from d2ft_sched.errors import InputError

GRID = [
    "--model", "vit_tiny_patch16_224", "--image-size", 32, "--minibatch-size", 6, "--no-plots",
    "--budget-compute", "0.4,0.7,1", "--jobs", 1,
]  # fmt: skip


def test_lines_that_do_not_fit_are_said():
    full = LineFile(Path("/dev/full"))
    with pytest.raises(InputError, match=r"^/dev/full: cannot be written \(No space left"):
        full.add("a line")
    full.close()


def test_a_sweep_goes_on_after_the_disk_was_full(d2ft, two_equal, tmp_path):
    out, write = tmp_path / "out", os.write
    written = []

    def full(file: int, content: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(bytes(content))
        return write(file, content)

    command = ["sweep", "--cluster", two_equal, *GRID, "--out", out]
    with patch("analysis.results.line_file.os.write", full):
        code, _, err = d2ft(*command)
    assert code == 2
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == (
        f"d2ft: {out / 'points.jsonl'}: cannot be written (No space left on device)"
    )
    assert [p.name for p in out.iterdir()] == ["points.jsonl"]
    assert d2ft(*command)[0] == 0
    rows = [json.loads(line) for line in (out / "points.jsonl").read_text().splitlines()[1:]]
    assert len({row["key"] for row in rows}) == len(rows) == 3
    assert json.loads(written[0]) in rows
