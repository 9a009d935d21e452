"""Lines that say what takes long."""

import io
from threading import Event

import pytest
from rich.console import Console

from analysis.console.signs_of_life import signs_of_life


class Heard(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.said = Event()

    def write(self, text: str) -> int:
        if "solving" in text:
            self.said.set()
        return super().write(text)


def test_what_takes_long_is_said_and_what_does_not_is_not():
    heard = Heard()
    console = Console(file=heard)
    with signs_of_life(console, every_s=0.005) as stage:
        stage("solving [/b]")
        assert heard.said.wait(30)
    assert "solving [/b]: 0 s" in heard.getvalue()
    before = heard.getvalue()
    with signs_of_life(console, every_s=1000) as stage:
        stage("solving")
    assert heard.getvalue() == before


def test_an_error_ends_it():
    with pytest.raises(ValueError, match="of the block"), signs_of_life(Console()):
        raise ValueError("of the block")
