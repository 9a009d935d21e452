"""SIGINT and SIGTERM: as a wish to stop at the next good moment, or both as an exception."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal, and end what runs."""
        self.signal = signal.Signals(number)
        raise KeyboardInterrupt


def noticing_interruption() -> AbstractContextManager[Interruption]:
    """Within it, the first signal is only noticed."""
    interruption = Interruption()
    return _handling(interruption, interruption.notice)


def raising_interruption() -> AbstractContextManager[Interruption]:
    """Within it, SIGTERM raises `KeyboardInterrupt` as SIGINT does, so that processes are ended."""
    interruption = Interruption()
    return _handling(interruption, interruption.interrupt)


@contextmanager
def _handling(
    interruption: Interruption, handler: Callable[[int, FrameType | None], None]
) -> Iterator[Interruption]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, own in before.items():
            signal.signal(number, own)
