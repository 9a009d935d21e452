"""What has been worked out for a schedule, so that it is done once while the schedule lasts."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

_Made = TypeVar("_Made")

SIZE = 256
"""Schedules remembered: those of an epoch of small data sets."""


class ScheduleMemo(Generic[_Made]):
    """A function of schedules that remembers what it made of the last `SIZE` different ones."""

    def __init__(self, make: Callable[[np.ndarray], _Made]) -> None:
        self._make = make
        self._made: OrderedDict[bytes, _Made] = OrderedDict()

    def __call__(self, schedule: np.ndarray) -> _Made:
        key = np.asarray(schedule).astype(np.int8).tobytes()
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        made = self._made[key] = self._make(schedule)
        if len(self._made) > SIZE:
            self._made.popitem(last=False)
        return made

    def __len__(self) -> int:
        """Different schedules remembered."""
        return len(self._made)
