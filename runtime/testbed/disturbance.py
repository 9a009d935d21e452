"""Devices that lose a part of their CPU share while a command runs, and get it back."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from runtime.testbed.cpu_shares import LEAST_CORES
from runtime.testbed.open_testbed import Testbed

SYNTAX = "DEVICE:FACTOR:FROM_S[:UNTIL_S]"


@dataclass(frozen=True)
class Disturbance:
    """A change of one device's share.

    Attributes:
        device: its name.
        factor: of its share that it keeps, above 0; above 1 it gets more.
        from_s: seconds after the start of the command.
        until_s: likewise; it then has what it would have without this one. inf for never.
    """

    device: str
    factor: float
    from_s: float
    until_s: float = math.inf


def parse_disturbance(text: str) -> Disturbance:
    """Read ``DEVICE:FACTOR:FROM_S[:UNTIL_S]``.

    Raises:
        InputError: it is written otherwise, or a number is out of range.
    """
    device, *numbers = text.split(":")
    try:
        factor, from_s, *rest = map(float, numbers)
        (until_s,) = rest or (math.inf,)
    except ValueError:
        raise InputError(f"--disturb is {text!r}; it must be {SYNTAX}, as host2:0.5:60") from None
    if not 0 < factor < math.inf:
        raise InputError(f"--disturb is {text!r}: FACTOR is {factor:g}; it must be above 0")
    if not 0 <= from_s < until_s:
        raise InputError(
            f"--disturb is {text!r}: it lasts from {from_s:g} s until {until_s:g} s; it must begin "
            f"at 0 or later and end after that"
        )
    return Disturbance(device, factor, from_s, until_s)


def check_disturbances(
    disturbances: Sequence[Disturbance], cluster: Cluster, cores: Sequence[float] | None
) -> None:
    """Refuse what cannot be done.

    Args:
        disturbances: all of a command.
        cluster: of the testbed.
        cores: share of each device; None where shares are not limited.

    Raises:
        InputError: a device is not in the cluster, CPU shares are not limited, or one gets so
            small or large that the kernel does not take it.
    """
    if disturbances and cores is None:
        raise InputError("--disturb changes CPU shares; it cannot go with --no-cpu-shares")
    most = os.cpu_count() or 1
    for at_s, device, factor in _changes(disturbances):
        share = factor * (cores or ())[cluster.device_index(device)]
        if not LEAST_CORES <= share <= most:
            raise InputError(
                f"--disturb gives {device!r} {share:g} cores from {at_s:g} s on ({factor:g} of its "
                f"share); it must be {LEAST_CORES:g} to {most}"
            )


def _changes(disturbances: Sequence[Disturbance]) -> list[tuple[float, str, float]]:
    """When which device has which factor of its share: the product of what is then in force."""
    ends = {(t, one.device) for one in disturbances for t in (one.from_s, one.until_s)}
    return [
        (
            at_s,
            device,
            math.prod(
                one.factor
                for one in disturbances
                if one.device == device and one.from_s <= at_s < one.until_s
            ),
        )
        for at_s, device in sorted(ends)
        if at_s < math.inf
    ]


def disturbing(
    testbed: Testbed,
    disturbances: Sequence[Disturbance],
    say: Callable[[str], object],
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], float]:
    """What does the changes when they are due: a `tick` of `run_ranks`.

    Args:
        testbed: where.
        disturbances: that `check_disturbances` accepts.
        say: told each change.
        clock: seconds, whose zero is now.
    """
    due = _changes(disturbances)
    start = clock()

    def tick() -> float:
        while due and due[0][0] <= clock() - start:
            at_s, device, factor = due.pop(0)
            testbed.scale_share(device, factor)
            say(f"{device} has {factor:g} of its CPU share from {at_s:g} s on")
        return max(0.0, due[0][0] - (clock() - start)) if due else math.inf

    return tick
