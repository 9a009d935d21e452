"""Re-planning while training runs: ranks share how long their lanes took, and all solve anew."""

import hashlib
import statistics
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from d2ft_sched.plan.replanning import (
    DevicePace,
    DeviceTimes,
    HeldLevels,
    ReplanState,
    as_planned,
    changed_pace,
    first_times,
    measured_pace,
)
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_from_rows, schedule_to_rows
from runtime.ranks.agreement import gather_arrays
from runtime.ranks.job import Ranks, check_agreement
from runtime.training.events import DeviceChange, Replanned, StepTimes
from runtime.training.schedule_source import Schedules

WINDOW = 5
"""Steps whose median counts."""

LEAST_STEPS = 3
"""Steps that a median needs. The first step of a process, which sets much up, is none of them."""

_WHAT = "the sharing of times"


class Replanner:
    """Looks at the times of all ranks every so many steps, and changes the schedules."""

    def __init__(
        self,
        levels: HeldLevels,
        schedules: Schedules,
        ranks: Ranks,
        device_names: Sequence[str],
        every: int,
        state: ReplanState | None = None,
    ) -> None:
        """Begin, or go on from `state`; all ranks do so alike.

        Args:
            levels: seconds to hold, on one device for each rank.
            schedules: that change.
            ranks: that train together, one for each device.
            device_names: of the devices.
            every: steps from one look to the next.
            state: of the training that goes on.
        """
        self._levels, self._schedules, self._ranks = levels, schedules, ranks
        self._names, self._every = device_names, every
        self._first = state.first if state else None
        self._pace = state.pace if state else as_planned(len(device_names))
        if state:
            rows = state.schedule_rows
            schedules.go_on(levels, self._pace, schedule_from_rows(rows) if rows else None)
        self._num_seen = 0
        self._recent: deque[tuple[float, float | None, float, float]] = deque(maxlen=WINDOW)

    @property
    def state(self) -> ReplanState:
        lasting = self._schedules.lasting
        rows = None if lasting is None else tuple(schedule_to_rows(lasting))
        return ReplanState(self._first, self._pace, rows)

    def after_step(self, step: int, schedule: np.ndarray, times: StepTimes) -> Replanned | None:
        """Take a step's times into account; what follows from them, if anything does.

        All ranks call this after every step. They share medians of their last steps' times, so
        that all come to the same schedules, which is checked.

        Args:
            step: counted from 1.
            schedule: that the step ran under.
            times: of this rank.

        Raises:
            InputError: no schedule fits, or ranks came to different ones.
            RankError: another rank died or hung.
        """
        begin = time.perf_counter()
        self._num_seen += 1
        if self._num_seen > 1:
            predicted_s = float(self._levels.lanes_s(schedule)[self._ranks.rank])
            ratio = times.lanes_s / predicted_s if predicted_s > 0 else None
            self._recent.append((times.lanes_s, ratio, times.rest_s, times.exchange_s))
        if step % self._every or len(self._recent) < LEAST_STEPS:
            return None
        measured = self._shared_times()
        if self._first is None:
            self._first = first_times(measured)
            if self._first is None:
                return None
        now = measured_pace(measured, self._first, self._levels.total_s)
        pace, changed = changed_pace(self._pace, now, self._levels.total_s)
        if not changed:
            return None
        before, old_pace = self._schedules.lasting, self._pace
        self._schedules.keep_pace(self._levels, pace, changed)
        self._pace = pace
        self._check_agreement(step)
        after = self._schedules.lasting
        if before is not None and after is not None and (before == after).all():
            return None
        changes = tuple(self._change(device, old_pace, measured, before) for device in changed)
        reason = "; ".join(map(_describe, changes))
        return Replanned(step, reason, changes, time.perf_counter() - begin)

    def _shared_times(self) -> DeviceTimes:
        lanes_s, ratios, rest_s, exchange_s = zip(*self._recent, strict=True)
        known = [ratio for ratio in ratios if ratio is not None]
        ratio = statistics.median(known) if known else float("nan")
        others = map(statistics.median, (rest_s, exchange_s))
        own = np.array([statistics.median(lanes_s), ratio, *others])
        table = gather_arrays(self._ranks, own, _WHAT)
        return DeviceTimes(*table.T)

    def _check_agreement(self, step: int) -> None:
        lasting = self._schedules.lasting
        of_each = b"" if lasting is None else lasting.tobytes()
        text = hashlib.sha256(of_each).hexdigest() + repr(self._pace)
        what = f"schedule after step {step}"
        check_agreement(self._ranks, {what: text}, self._ranks.num_ranks)

    def _change(
        self,
        device: int,
        old_pace: DevicePace,
        measured: DeviceTimes,
        before: np.ndarray | None,
    ) -> DeviceChange:
        assert self._first is not None
        second = self._first.ratio[device]
        counts = [self._counts(device, schedule) for schedule in (self._schedules.lasting, before)]
        (num_full, num_forward_only), (full_before, forward_only_before) = counts
        return DeviceChange(
            device=self._names[device],
            slowdown=self._pace.slowdown[device],
            slowdown_before=old_pace.slowdown[device],
            later_s=self._pace.later_s[device] * second,
            later_before_s=old_pace.later_s[device] * second,
            lanes_s=float(measured.lanes_s[device]),
            rest_s=float(measured.rest_s[device]),
            num_full=num_full,
            num_forward_only=num_forward_only,
            num_full_before=full_before,
            num_forward_only_before=forward_only_before,
        )

    def _counts(self, device: int, schedule: np.ndarray | None) -> tuple[int | None, int | None]:
        if schedule is None:
            return None, None
        own = schedule[self._levels.device == device]
        return int((own == Operation.FULL).sum()), int((own == Operation.FORWARD_ONLY).sum())


def _describe(change: DeviceChange) -> str:
    text = (
        f"{change.device}: lanes take {change.slowdown:.2f} of their first time (planned for "
        f"{change.slowdown_before:.2f})"
    )
    if change.later_s or change.later_before_s:
        text += (
            f", with {_moved(change.later_s)} for them (planned for "
            f"{_moved(change.later_before_s)})"
        )
    if change.num_full is None:
        return text
    return (
        f"{text}: {change.num_full_before} -> {change.num_full} FULL, "
        f"{change.num_forward_only_before} -> {change.num_forward_only} FORWARD_ONLY"
    )


def _moved(later_s: float) -> str:
    return f"{1e3 * abs(later_s):.0f} ms {'less' if later_s > 0 else 'more'}"
