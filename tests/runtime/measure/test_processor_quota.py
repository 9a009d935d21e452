import os
from pathlib import Path

import pytest

from runtime.measure.processor_quota import quota_period_s


@pytest.fixture
def own_group(monkeypatch):
    """Lets this process be in a group of a name, of version 2 or 1."""

    def put(line):
        read = Path.read_text
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, *a: f"{line}\n" if path == Path("/proc/7/cgroup") else read(path, *a),
        )

    return put


def write(group, **files):
    group.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (group / f"cpu.{name}").write_text(f"{text}\n")


def test_the_longest_period_of_all_groups_around_a_process_counts(own_group, tmp_path):
    own_group("0::/outer/inner")
    write(tmp_path / "outer/inner", max="max 100000")
    write(tmp_path / "outer/other", max="5000 900000")
    assert quota_period_s("7", tmp_path) == 0.0
    write(tmp_path / "outer", max="50000 100000")
    assert quota_period_s("7", tmp_path) == 0.1
    write(tmp_path / "outer/inner", max="2000 250000")
    assert quota_period_s("7", tmp_path) == 0.25


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_groups_of_version_1_have_quotas_too(own_group, tmp_path, mount):
    own_group(f"3:{mount}:/pod")
    write(tmp_path / mount / "pod", cfs_quota_us="-1", cfs_period_us="100000")
    assert quota_period_s("7", tmp_path) == 0.0
    write(tmp_path / mount / "pod", cfs_quota_us="2700", cfs_period_us="6000")
    assert quota_period_s("7", tmp_path) == 0.006


@pytest.mark.parametrize("text", ["", "soon", "1 2 3"])
def test_what_cannot_be_read_is_no_quota(own_group, tmp_path, text):
    own_group("0::/own")
    assert quota_period_s("7", tmp_path) == 0.0
    write(tmp_path / "own", max=text)
    assert quota_period_s("7", tmp_path) == 0.0


def test_a_process_that_is_not_there_has_none():
    assert quota_period_s(str(2**31 - 1)) == 0.0
    assert quota_period_s(str(os.getpid())) >= 0.0
