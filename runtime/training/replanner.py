"""Re-planning while training runs: ranks share how long their lanes took, and all act alike."""

import statistics
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from d2ft_sched.plan.replanning import (
    DevicePace,
    DeviceTimes,
    ReplanState,
    as_planned,
    changed_pace,
    first_times,
)
from d2ft_sched.plan.sample_deal import SampleDeal
from runtime.ranks.agreement import gather_arrays
from runtime.ranks.job import Ranks, check_agreement
from runtime.training.events import DeviceChange, MovedShare, Replanned, StepTimes
from runtime.training.replan_actions import ReplanAction

WINDOW = 5
"""Steps whose median counts."""

LEAST_STEPS = 3
"""Steps that a median needs. The first step of a process, which sets much up, is none of them."""

_WHAT = "the sharing of times"


class Replanner:
    """Looks at the times of all ranks every so many steps, and acts where their pace changed."""

    def __init__(
        self,
        action: ReplanAction,
        ranks: Ranks,
        device_names: Sequence[str],
        every: int,
        state: ReplanState | None = None,
    ) -> None:
        """Begin, or go on from `state`; all ranks do so alike.

        Args:
            action: what follows from the pace of devices.
            ranks: that train together, one for each device.
            device_names: of the devices.
            every: steps from one look to the next.
            state: of the training that goes on.
        """
        self._action, self._ranks = action, ranks
        self._names, self._every = device_names, every
        self._first = state.first if state else None
        self._pace = state.pace if state else as_planned(len(device_names))
        if state:
            action.go_on(state)
        self._num_seen = 0
        self._recent: deque[tuple[float, float | None, float, float]] = deque(maxlen=WINDOW)

    @property
    def state(self) -> ReplanState:
        return ReplanState(self._first, self._pace, self._action.schedule_rows)

    @property
    def deal(self) -> SampleDeal | None:
        """How mini-batches are dealt now; None where that never changes."""
        return self._action.deal

    def after_step(self, step: int, schedule: np.ndarray, times: StepTimes) -> Replanned | None:
        """Take a step's times into account; what follows from them, if anything does.

        All ranks call this after every step. They share medians of their last steps' times, so
        that all come to the same, which is checked.

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
            predicted_s = self._action.lanes_s(schedule)
            ratio = times.lanes_s / predicted_s if predicted_s > 0 else None
            self._recent.append((times.lanes_s, ratio, times.rest_s, times.exchange_s))
        if step % self._every or len(self._recent) < LEAST_STEPS:
            return None
        measured = self._shared_times()
        if self._first is None:
            self._first = first_times(measured)
            if self._first is None:
                return None
        now = self._action.pace(measured, self._first)
        pace, changed = changed_pace(self._pace, now, self._action.total_s)
        if not changed:
            return None
        old_pace, old_deal = self._pace, self.deal
        before = [self._action.operations(device) for device in changed]
        is_other = self._action.follow(pace, self._first, changed)
        self._pace = pace
        self.check_agreement(f"after step {step}")
        if not is_other:
            return None
        changes = tuple(
            self._change(device, old_pace, measured, operations)
            for device, operations in zip(changed, before, strict=True)
        )
        shares = self._moved_shares(old_deal)
        reason = "; ".join([*map(_describe, changes), *map(_describe_share, shares)])
        return Replanned(step, reason, changes, time.perf_counter() - begin, shares)

    def check_agreement(self, when: str) -> None:
        """Compare what all ranks do from now on.

        Raises:
            InputError: they differ.
        """
        what = f"{'schedule' if self.deal is None else 'deal of samples'} {when}"
        said = {what: self._action.text() + repr(self._pace)}
        check_agreement(self._ranks, said, self._ranks.num_ranks)

    def _shared_times(self) -> DeviceTimes:
        lanes_s, ratios, rest_s, exchange_s = zip(*self._recent, strict=True)
        known = [ratio for ratio in ratios if ratio is not None]
        ratio = statistics.median(known) if known else float("nan")
        others = map(statistics.median, (rest_s, exchange_s))
        own = np.array([statistics.median(lanes_s), ratio, *others])
        table = gather_arrays(self._ranks, own, _WHAT)
        return DeviceTimes(*table.T)

    def _change(
        self,
        device: int,
        old_pace: DevicePace,
        measured: DeviceTimes,
        before: tuple[int | None, int | None],
    ) -> DeviceChange:
        assert self._first is not None
        second = self._first.ratio[device]
        num_full, num_forward_only = self._action.operations(device)
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
            num_full_before=before[0],
            num_forward_only_before=before[1],
        )

    def _moved_shares(self, before: SampleDeal | None) -> tuple[MovedShare, ...]:
        if before is None or self.deal is None:
            return ()
        return tuple(
            MovedShare(tuple(self._names[device] for device in replica.devices), now, then)
            for replica, now, then in zip(
                before.replicas, self.deal.samples, before.samples, strict=True
            )
        )


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


def _describe_share(share: MovedShare) -> str:
    return (
        f"samples on {' + '.join(share.devices)}: {share.num_samples_before} -> {share.num_samples}"
    )


def _moved(later_s: float) -> str:
    return f"{1e3 * abs(later_s):.0f} ms {'less' if later_s > 0 else 'more'}"
