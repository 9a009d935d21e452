"""Names that act on terminals, markup or files: shown inert, on one line, cut; read as they are."""

import ast
import io
from pathlib import Path
from string import ascii_letters, digits

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

import analysis
from analysis.console.output import print_columns, print_line, print_note, print_table
from analysis.console.plain_text import NARROW, one_line
from analysis.console.progress import TerminalProgress
from analysis.console.study_progress import StudyProgress
from analysis.plots.save import render
from analysis.plots.training.method_accuracy import accuracy_against
from analysis.reporting.report_tables import Table, text_cell
from analysis.reporting.write_report import template_environment
from analysis.results.file_names import file_names
from analysis.results.table_file import read_csv
from analysis.studying.study_table import Table as StudyTable
from analysis.studying.study_table import load_table

NAMES = st.text(
    st.characters() | st.sampled_from("\x00\x07\x1b\r\n\t\u202e\u2028\u200b\ud800[]/:$_,=\"'"),
    min_size=1,
    max_size=30,
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LOOK_LIKE_NUMBERS = ["NA", "null", "nan", "None", "007", "0", "2024", "1e5", "True", "inf", "-", ""]


def is_inert(text: str) -> bool:
    return all(c.isprintable() or c in "\n\N{NO-BREAK SPACE}" for c in text)


@given(NAMES, st.integers(20, 200))
@example("\x1b[31m\u202e\n", 20)
def test_a_line_is_inert_and_no_longer_than_asked_for(name: str, at_most: int) -> None:
    shown = one_line(name * 20, at_most)
    assert is_inert(shown)
    assert "\n" not in shown
    assert len(shown) <= at_most
    assert one_line(shown, at_most) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=50))
def test_what_can_be_printed_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text


@given(NAMES)
def test_narrow_terminals_get_something_for_every_character(name: str) -> None:
    for encoding in ("ascii", "latin-1", "cp1252"):
        assert (name + "12\N{NO-BREAK SPACE}µs").encode(encoding, NARROW)


@FUZZ
@given(name=NAMES)
@example(name="base [/b]")
@example(name=":tada:")
def test_tables_lines_and_progress_show_any_name(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    print_table(name, [name, "step"], [[name, "1 s"]])
    print_columns(name, [name, *"abcdef"], [[name, *"123456"]])
    print_line(name)
    print_note(name)
    screen = io.StringIO()
    console = Console(file=screen, width=300)
    with TerminalProgress(console).stage(name) as tell:
        tell(1, 1)
    with StudyProgress(console, name) as study:
        study.tell(1, 1, name)
        study.say(name)
    captured = capsys.readouterr()
    assert is_inert(captured.out + captured.err + screen.getvalue())
    assert f"\n{one_line(name)}\n" in captured.out


@FUZZ
@given(name=NAMES)
def test_the_report_shows_any_name(name: str) -> None:
    table = Table(name, (name,), ((name, ((text_cell(name),),)),))
    text = "{% from 'macros.html.j2' import data_table %}{{ name }}{{ data_table(table) }}"
    html = template_environment().from_string(text).render(name=name, table=table)
    assert is_inert(html)


def _curves(method: str, cluster: str = "c") -> pd.DataFrame:
    rows = [
        {
            "key": "k", "cluster": cluster, "budget": budget, "method": method, "seed": seed,
            "epoch": epoch, "top1": 0.5 + epoch / 10, "compute_fraction": epoch / 2,
        }
        for budget in ("any", method) for seed in (0, 1) for epoch in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@settings(max_examples=12, deadline=None)
@given(NAMES)
@example("$a_{b$")
@example("_hidden")
@example("\x00\x1b")
def test_pictures_show_any_name(name: str) -> None:
    figure = accuracy_against(_curves(name), "compute_fraction")
    assert len(figure.legends[0].get_texts()) == 2
    svg = render(figure, "svg").decode()
    assert is_inert(svg)


def test_only_one_module_prints() -> None:
    for path in Path(analysis.__path__[0]).rglob("*.py"):
        if path.name in ("output.py", "scaling.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "typer.echo", "typer.secho"), path
                assert not called.endswith(("console.print", "messages.print")), path


@given(st.lists(NAMES, unique=True, max_size=6))
@example(["a,b", "a-b", "a;b"])
@example(["Lab", "lab"])
@example(["京都", "大阪"])
@example(["../x", "x"])
def test_no_two_names_share_a_file(names: list[str]) -> None:
    called = file_names(names)
    assert len({part.casefold() for part in called.values()}) == len(names)
    for name, part in called.items():
        assert set(part) <= set(ascii_letters + digits + "._-")
        assert len(part) < 80
        assert part == name or part[-9] == "-"


@given(
    st.lists(st.sampled_from(LOOK_LIKE_NUMBERS) | st.text("NAnul0127.e-", max_size=6), max_size=5)
)
def test_text_columns_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.csv"
    number = np.random.default_rng(len(names)).random(len(names))
    written = pd.DataFrame({"name": pd.Series(names, dtype=str), "number": number})
    path.write_text(written.to_csv(index=False))
    read = read_csv(path, ["name"])
    assert read["name"].tolist() == names
    if names:
        assert read["number"].tolist() == number.tolist()


@pytest.mark.parametrize("name", LOOK_LIKE_NUMBERS[:-1])
def test_a_study_keeps_names_that_look_like_numbers(tmp_path: Path, name: str) -> None:
    table = StudyTable(tmp_path / "runs.csv", {})
    row = {"key": "1" * 20, "cluster": name, "budget": name, "method": name, "seed": 0, "top1": 0.5}
    table.put(row["key"], [row])
    again = StudyTable(tmp_path / "runs.csv", {})
    assert again.rows == [row]
    runs = load_table(tmp_path / "runs.csv", ["cluster", "seed", "top1"])
    assert runs[["cluster", "budget", "method"]].to_numpy().tolist() == [[name] * 3]
    assert runs["top1"].tolist() == [0.5]
