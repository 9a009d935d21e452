"""What tables print: units, three digits, no exponents."""

import json

import pytest

from analysis.output import amount, percent, print_columns, print_json, print_table, seconds


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
