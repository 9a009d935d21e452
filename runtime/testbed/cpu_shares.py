"""Shares of the processor by control groups, of either version."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from runtime.testbed.owner import is_stale

PERIOD_S = 6e-3
"""Over which a quota holds, where that is at least `_LEAST_QUOTA_S` of processor time. A group that
has waited may use its whole quota at once, so that work after a wait seems faster than the share: a
period has to be short beside the phases of a step. Still shorter ones would be held to worse, since
quotas are looked at with every tick (4 ms, Linux 6.18 with 250 ticks a second). Measured there:
10 ms of work at a share of 0.4, which should take 25 ms, took 21.4 after a wait; 17.2 with a period
of 10 ms and slices of 5."""

LARGEST_LOAD = 0.65
"""Part of the cores that all shares together take by default; the rest carries packets. With it the
shares of ranks that are all busy fall short by 2 to 4 %, with 0.8 by up to 10 %."""

_LEAST_QUOTA_S = 1e-3
_LONGEST_PERIOD_S = 1.0
LEAST_CORES = _LEAST_QUOTA_S / _LONGEST_PERIOD_S
"""The smallest share that the kernel takes."""

_END_WAIT_S = 5.0
_LARGEST_WEIGHT = {1: 262144, 2: 10000}
_NO_GROUPS = "the testbed cannot limit CPU shares: {}; pass --no-cpu-shares to go without"


def shares(cluster: Cluster, cores_per_unit: float | None = None) -> tuple[float, ...]:
    """Cores that each device gets: its compute rate beside the fastest's, times `cores_per_unit`.

    Args:
        cluster: whose devices' `compute_flops_per_s` count.
        cores_per_unit: cores of the fastest device, at most 1 (a rank computes in one thread);
            by default so many that all shares together fit into `LARGEST_LOAD` of the cores.

    Raises:
        InputError: `cores_per_unit` is not above 0 and at most 1, or a device gets less than
            `LEAST_CORES`.
    """
    rates = [device.compute_flops_per_s for device in cluster.devices]
    speeds = [rate / max(rates) for rate in rates]
    if cores_per_unit is None:
        cores_per_unit = min(1.0, LARGEST_LOAD * len(os.sched_getaffinity(0)) / sum(speeds))
    if not 0 < cores_per_unit <= 1:
        raise InputError(
            f"--cores-per-unit is {cores_per_unit}; it must be above 0 and at most 1, since a rank "
            f"computes in one thread"
        )
    slowest = min(range(len(speeds)), key=speeds.__getitem__)
    if speeds[slowest] * cores_per_unit < LEAST_CORES:
        raise InputError(
            f"device {cluster.devices[slowest].name!r} would get "
            f"{speeds[slowest] * cores_per_unit:.2g} cores, the fastest {cores_per_unit:.2g}; a "
            f"share must be at least {LEAST_CORES:g}: make the devices less unequal, or pass "
            f"--no-cpu-shares"
        )
    return tuple(speed * cores_per_unit for speed in speeds)


@dataclass(frozen=True)
class Hierarchy:
    """Where control groups with the ``cpu`` controller are made."""

    root: Path
    version: int

    def create(self, name: str, cores: Sequence[float]) -> list[Path]:
        """A group called `name` with one inside for each share; the groups inside.

        The group goes before everything else on the machine, so that the shares are held on a busy
        one, too.

        Raises:
            InputError: the groups cannot be made.
        """
        top = self.root / name
        try:
            if self.version == 2:
                self._enable(self.root)
            top.mkdir()
            (top / ("cpu.weight" if self.version == 2 else "cpu.shares")).write_text(
                str(_LARGEST_WEIGHT[self.version])
            )
            if self.version == 2:
                self._enable(top)
            groups = [top / str(i) for i in range(len(cores))]
            for group, share in zip(groups, cores, strict=True):
                group.mkdir()
                self.limit(group, share)
        except OSError as error:
            raise InputError(_NO_GROUPS.format(f"{error.filename}: {error.strerror}")) from None
        return groups

    def _enable(self, group: Path) -> None:
        control = group / "cgroup.subtree_control"
        if "cpu" not in control.read_text().split():
            control.write_text("+cpu")

    def limit(self, group: Path, cores: float) -> None:
        """Give a group this share from now on, whatever runs in it."""
        period_s = min(max(PERIOD_S, _LEAST_QUOTA_S / cores), _LONGEST_PERIOD_S)
        period_us = round(period_s * 1e6)
        quota_us = round(cores * period_us)
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))

    def names(self) -> list[str]:
        """Names of the groups that are made at the top."""
        return sorted(path.name for path in self.root.iterdir() if path.is_dir())

    def remove(self, name: str) -> None:
        """End what runs in a group and in those inside it, and remove them."""
        top = self.root / name
        deadline = time.monotonic() + _END_WAIT_S
        for group in (*(path for path in top.iterdir() if path.is_dir()), top):
            while True:
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                try:
                    group.rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    def remove_stale(self) -> None:
        """Remove the groups of testbeds whose process has ended."""
        for name in filter(is_stale, self.names()):
            self.remove(name)


def find_hierarchy() -> Hierarchy:
    """The control groups that can limit CPU shares on this machine.

    Raises:
        InputError: there are none, or they cannot be written to.
    """
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        root = Path(mount)
        if kind == "cgroup" and "cpu" in options.split(","):
            found = Hierarchy(root, 1)
        elif kind == "cgroup2" and "cpu" in (root / "cgroup.controllers").read_text().split():
            found = Hierarchy(root, 2)
        else:
            continue
        if not os.access(root, os.W_OK):
            raise InputError(_NO_GROUPS.format(f"{root} cannot be written to"))
        return found
    raise InputError(_NO_GROUPS.format("no control group with the cpu controller is mounted"))
