"""SIGINT and SIGTERM as a wish to stop at the next good moment; a second one ends at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Which signal has come, if any."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def notice(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; the next one has its usual effect."""
        self.signal = signal.Signals(number)
        for known in SIGNALS:
            signal.signal(known, signal.SIG_DFL)


@contextmanager
def noticing_interruption() -> Iterator[Interruption]:
    """Within it, the first signal is only noticed."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.notice) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
