"""Files as editors, file systems and YAML 1.1 may make them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2ft_sched.cluster.cluster_file import load_cluster
from d2ft_sched.cluster.device import MOST_MEMORY_BYTES, Device
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import check_file_target, write_text
from d2ft_sched.files.schema import read_yaml
from d2ft_sched.files.text_file import read_text
from d2ft_sched.plan.plan_file import load_plan
from d2ft_sched.problem.scores import load_scores, save_scores, uniform_scores

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    save_scores(uniform_scores(2, 3), path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_scores(path, 2, 3).forward.shape == (2, 3)
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(path) == {"name": "x"}


@FUZZ
@given(st.from_regex(r"[-+]?0[0-7_]*[0-7]", fullmatch=True))
def test_leading_zeros_are_refused_unless_quoted(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"a: 1\nb: {number}\n")
    with pytest.raises(InputError, match=r"read as a number in base 8.*line 2"):
        read_yaml(path)
    path.write_text(f"b: '{number}'\n")
    assert read_yaml(path) == {"b": number}


@FUZZ
@given(st.from_regex(r"[-+]?[1-9][0-9]?(:[0-5][0-9]){1,2}(\.[0-9]+)?", fullmatch=True))
def test_colons_are_refused_unless_quoted(tmp_path: Path, number: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"- {number}\n")
    with pytest.raises(InputError, match=r"read as a number in base 60.*line 1"):
        read_yaml(path)
    path.write_text(f'- "{number}"\n')
    assert read_yaml(path) == [number]


@FUZZ
@given(st.integers() | st.floats(0.001, 1e6))
def test_other_numbers_are_read_as_they_are(tmp_path: Path, number: float) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"- {number}\n")
    assert read_yaml(path) == [number]


def test_links_that_lead_to_themselves(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for read in (read_text, load_cluster, load_plan, lambda path: load_scores(path, 1, 1)):
        with pytest.raises(InputError, match="symbolic links"):
            read(loop)
    for path in (loop, loop / "x.json"):
        for write in (check_file_target, lambda path: write_text(path, "x")):
            with pytest.raises(InputError, match="cannot be written"):
                write(path)
    assert loop.is_symlink()


def test_devices_are_no_files() -> None:
    with pytest.raises(InputError, match="it is a device"):
        read_text(Path("/dev/zero"))


def test_memory_stays_within_64_bits() -> None:
    assert Device("a", 1e12, MOST_MEMORY_BYTES, 1e11).memory_bytes == MOST_MEMORY_BYTES
    with pytest.raises(InputError, match="memory_bytes is 100000000000000000000"):
        Device("a", 1e12, 10**20, 1e11)
