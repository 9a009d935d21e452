"""SIGINT and SIGTERM: as a wish to stop at the next good moment, or both as an exception."""

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


@contextmanager
def raising_interruption() -> Iterator[Interruption]:
    """Within it, SIGTERM raises `KeyboardInterrupt` as SIGINT does, so that processes are ended."""
    interruption = Interruption()

    def stop(number: int, frame: FrameType | None) -> None:
        interruption.signal = signal.Signals(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
