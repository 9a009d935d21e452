"""What tables print: units, three digits, no exponents."""

import json

import pytest
from rich.console import Console

from analysis.console import output
from analysis.console.output import amount, percent, print_columns, print_json, print_table, seconds


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (seconds(0), "0 s"),
        (seconds(3.2e-8), "0.0320 µs"),
        (seconds(0.0004567), "457 µs"),
        (seconds(0.9996), "1.00 s"),
        (seconds(12345.6), "12,346 s"),
        (amount(0, "B"), "0 B"),
        (amount(999.6e6, "B"), "1.00 GB"),
        (amount(1.234e18, "FLOP"), "1,234 PFLOP"),
        (amount(0.00012, "kWh"), "0.000120 kWh"),
        (percent(None), "-"),
        (percent(0.12345), "12.3 %"),
    ],
)
def test_numbers_have_a_unit_and_no_exponent(shown, text):
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize("show", [print_table, print_columns])
def test_names_that_look_like_markup_are_shown_as_they_are(show, capsys):
    show("on [x]", ["device", "[a]"], [["[/a]", "host[b]"]])
    out = capsys.readouterr().out
    assert all(text in out for text in ("on [x]", "[a]", "[/a]", "host[b]"))


def test_json_is_strict(capsys):
    print_json({"a": [float("inf"), 1.5, (float("nan"),)], "b": {"c": "x"}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, [None]], "b": {"c": "x"}}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("num_columns", [2, 7, 14])
def test_no_figure_is_cut_or_wrapped_however_little_room_there_is(
    width, num_columns, capsys, monkeypatch
):
    narrow = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", narrow)
    columns = ["what it is", *(f"heading of {i}" for i in range(1, num_columns))]
    rows = [
        [name, *(f"{i}.{name[-1]}5 ms" for i in range(1, num_columns))]
        for name in ("a rather long name of a row 1", "row 2")
    ]
    print_table("a title", columns, rows)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    for row in rows:
        for figure in row[1:]:
            assert sum(f" {figure}" in line for line in lines) == 1
