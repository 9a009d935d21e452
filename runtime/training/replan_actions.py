"""What follows from the pace of devices: other operations on them, or other samples."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.plan.replanning import (
    DevicePace,
    DeviceTimes,
    FirstTimes,
    HeldLevels,
    ReplanState,
    as_planned,
    measured_pace,
    measured_slowdown,
)
from d2ft_sched.plan.sample_deal import SampleDeal
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import schedule_from_rows, schedule_to_rows
from runtime.training.schedule_memo import ScheduleMemo
from runtime.training.schedule_source import DealtSchedules, PacedSchedules


class ReplanAction(Protocol):
    """Changes what devices do so that it suits their pace; the same on every rank."""

    @property
    def total_s(self) -> float:
        """Predicted seconds beside which what a device has to give up counts."""
        ...

    @property
    def deal(self) -> SampleDeal | None:
        """How mini-batches are dealt now; None where that never changes."""
        ...

    @property
    def schedule_rows(self) -> tuple[str, ...] | None:
        """The schedule in force where it follows from more than the pace."""
        ...

    def lanes_s(self, schedule: np.ndarray) -> float:
        """Predicted seconds of this rank's lanes on devices as planned."""
        ...

    def pace(self, measured: DeviceTimes, first: FirstTimes) -> DevicePace:
        """Of all devices, as they were measured."""
        ...

    def follow(self, pace: DevicePace, first: FirstTimes, changed: Sequence[int]) -> bool:
        """Suit a pace that has changed on some devices; whether anything is done otherwise then.

        Raises:
            InputError: no schedule fits.
        """
        ...

    def go_on(self, state: ReplanState) -> None:
        """Take up what a checkpoint says."""
        ...

    def operations(self, device: int) -> tuple[int | None, int | None]:
        """FULL and FORWARD_ONLY of a device; None where they are others in each step."""
        ...

    def text(self) -> str:
        """What is in force, as all ranks must have it."""
        ...


class MovedOperations:
    """In one replica: the seconds of the first steps stay, devices get other operations."""

    deal = None

    def __init__(self, levels: HeldLevels, schedules: PacedSchedules, rank: int) -> None:
        """Begin as planned.

        Args:
            levels: seconds to hold, on one device for each rank.
            schedules: that change.
            rank: this one.
        """
        self._levels, self._schedules, self._rank = levels, schedules, rank
        schedules.keep_pace(levels, as_planned(levels.num_devices), ())

    @property
    def total_s(self) -> float:
        return self._levels.total_s

    @property
    def schedule_rows(self) -> tuple[str, ...] | None:
        lasting = self._schedules.lasting
        return None if lasting is None else tuple(schedule_to_rows(lasting))

    def lanes_s(self, schedule: np.ndarray) -> float:
        return float(self._levels.lanes_s(schedule)[self._rank])

    def pace(self, measured: DeviceTimes, first: FirstTimes) -> DevicePace:
        return measured_pace(measured, first, self.total_s)

    def follow(self, pace: DevicePace, first: FirstTimes, changed: Sequence[int]) -> bool:
        before = self._schedules.lasting
        self._schedules.keep_pace(self._levels, pace, changed)
        after = self._schedules.lasting
        return before is None or after is None or bool((before != after).any())

    def go_on(self, state: ReplanState) -> None:
        rows = state.schedule_rows
        lasting = schedule_from_rows(rows) if rows else None
        self._schedules.go_on(self._levels, state.pace, lasting)

    def operations(self, device: int) -> tuple[int | None, int | None]:
        lasting = self._schedules.lasting
        if lasting is None:
            return None, None
        own = lasting[self._levels.device == device]
        return int((own == Operation.FULL).sum()), int((own == Operation.FORWARD_ONLY).sum())

    def text(self) -> str:
        return repr(self.schedule_rows)


class MovedSamples:
    """Between replicas: the mini-batch is dealt anew so that they end together.

    Devices at the pace of the first steps have the planned deal.
    """

    def __init__(
        self,
        planned: SampleDeal,
        deal_at: Callable[[tuple[float, ...]], SampleDeal],
        schedules: DealtSchedules,
        devices: Sequence[Device],
        rank: int,
    ) -> None:
        """Begin as planned.

        Args:
            planned: how mini-batches are dealt first, with ranks for devices.
            deal_at: from seconds over the predicted ones, of every rank, to the deal.
            schedules: whose micro-batches change.
            devices: of the ranks, as planned.
            rank: this one.
        """
        self._planned = self.deal = planned
        self._deal_at, self._schedules = deal_at, schedules
        self._devices, self._rank = devices, rank
        self._lanes_s = ScheduleMemo(self._predicted_s)

    total_s = 0.0
    schedule_rows = None

    def lanes_s(self, schedule: np.ndarray) -> float:
        return self._lanes_s(schedule)

    def pace(self, measured: DeviceTimes, first: FirstTimes) -> DevicePace:
        """Ranks of no replica keep theirs: what they take does not depend on the deal."""
        works = np.zeros(len(self._devices), dtype=bool)
        works[[device for replica in self._planned.replicas for device in replica.devices]] = True
        slowdown = np.where(works, measured_slowdown(measured, first), 1.0)
        return DevicePace(tuple(slowdown.tolist()), (0.0,) * len(slowdown))

    def follow(self, pace: DevicePace, first: FirstTimes, changed: Sequence[int]) -> bool:
        before = self.deal
        self._take(pace, first)
        return self.deal is not before

    def go_on(self, state: ReplanState) -> None:
        if state.first is not None:
            self._take(state.pace, state.first)

    def operations(self, device: int) -> tuple[int | None, int | None]:
        return None, None

    def text(self) -> str:
        return self.deal.text()

    def _take(self, pace: DevicePace, first: FirstTimes) -> None:
        """What all devices alike took longer than predicted counts beside messages, which are
        timed as planned."""
        deal = self._planned
        if pace != as_planned(len(pace.slowdown)):
            common = float(np.median(first.ratio))
            deal = self._deal_at(tuple(common * slowdown for slowdown in pace.slowdown))
        if deal.text() != self.deal.text():
            self.deal, self._lanes_s = deal, ScheduleMemo(self._predicted_s)
            self._schedules.take(deal.schedule)

    def _predicted_s(self, schedule: np.ndarray) -> float:
        return self.deal.lanes_s(schedule, self._rank, self._devices)
