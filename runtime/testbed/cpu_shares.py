"""Which core each device computes on, and for which part of the time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError

PERIOD_S = 4e-3
"""In which every device has one window, where its window is then at least `LEAST_WINDOW_S`. Short
beside the phases of a step, long beside what it takes to stop and go on (some 20 us)."""

LEAST_WINDOW_S = 2.5e-4
LONGEST_PERIOD_S = 0.5
LEAST_CORES = LEAST_WINDOW_S / LONGEST_PERIOD_S
"""The smallest share that a device can have."""

LARGEST_LOAD = 0.9
"""Part of a core that the devices on it take together by default, where they are several."""


@dataclass(frozen=True)
class CpuShare:
    """What a device gets.

    Attributes:
        core: that it computes on.
        cores: part of it, above 0 and at most 1.
    """

    core: int
    cores: float


def packet_core() -> int:
    """The core that carries packets and stops devices."""
    return max(os.sched_getaffinity(0))


def computing_cores() -> tuple[int, ...]:
    """Cores for devices: all that this process may use but `packet_core`, if there are others."""
    return tuple(sorted(os.sched_getaffinity(0) - {packet_core()})) or (packet_core(),)


def shares(cluster: Cluster, cores_per_unit: float | None = None) -> tuple[CpuShare, ...]:
    """What each device gets: its compute rate beside the fastest's, times `cores_per_unit`.

    Devices are dealt to cores, the fastest first, each to the core with the least load. Those of a
    core compute one after the other, never at once, so that none slows another down.

    Args:
        cluster: whose devices' `compute_flops_per_s` count.
        cores_per_unit: cores of the fastest device, at most 1 (a rank computes in one thread);
            by default so many that devices of one core take `LARGEST_LOAD` of it together, and one
            alone all of it.

    Raises:
        InputError: `cores_per_unit` is not above 0 and at most 1 or more than a core has, or a
            device gets less than `LEAST_CORES`.
    """
    rates = [device.compute_flops_per_s for device in cluster.devices]
    speeds = [rate / max(rates) for rate in rates]
    core_of, load, alone = _dealt(speeds)
    if cores_per_unit is None:
        cores_per_unit = min(1.0, *(
            (1.0 if is_alone else LARGEST_LOAD) / total
            for total, is_alone in zip(load, alone, strict=True)
        ))  # fmt: skip
    if not 0 < cores_per_unit <= 1:
        raise InputError(
            f"--cores-per-unit is {cores_per_unit}; it must be above 0 and at most 1, since a rank "
            f"computes in one thread"
        )
    if cores_per_unit * max(load) > 1 + 1e-9:
        raise InputError(
            f"--cores-per-unit is {cores_per_unit}; on the {len(computing_cores())} of this "
            f"machine's cores that compute it can be at most {1 / max(load):.3g}"
        )
    slowest = min(range(len(speeds)), key=speeds.__getitem__)
    if speeds[slowest] * cores_per_unit < LEAST_CORES:
        raise InputError(
            f"device {cluster.devices[slowest].name!r} would get "
            f"{speeds[slowest] * cores_per_unit:.2g} cores, the fastest {cores_per_unit:.2g}; a "
            f"share must be at least {LEAST_CORES:g}: make the devices less unequal, or pass "
            f"--no-cpu-shares"
        )
    return tuple(
        CpuShare(core, speed * cores_per_unit) for core, speed in zip(core_of, speeds, strict=True)
    )


def _dealt(speeds: Sequence[float]) -> tuple[list[int], list[float], list[bool]]:
    """The core of each device; of the cores that have some, their load and whether it is of one."""
    cores = computing_cores()
    load, number = [0.0] * len(cores), [0] * len(cores)
    core_of = [0] * len(speeds)
    for device in sorted(range(len(speeds)), key=lambda d: -speeds[d]):
        lane = min(range(len(cores)), key=load.__getitem__)
        core_of[device] = cores[lane]
        load[lane] += speeds[device]
        number[lane] += 1
    used = [lane for lane in range(len(cores)) if number[lane]]
    return core_of, [load[lane] for lane in used], [number[lane] == 1 for lane in used]


def period_s(of_devices: Sequence[CpuShare]) -> float:
    """Seconds in which every device has its window once."""
    least = min((share.cores for share in of_devices), default=1.0)
    return min(max(PERIOD_S, LEAST_WINDOW_S / least), LONGEST_PERIOD_S)
