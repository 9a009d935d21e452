"""Whether the system deals out processor time to this process in portions."""

import os
from pathlib import Path

_CPU_MOUNTS = ("", "cpu", "cpu,cpuacct")
"""Below the root of control groups, of version 2 and of version 1."""


def quota_period_s(process: str = "self", root: Path = Path("/sys/fs/cgroup")) -> float:
    """The longest period over which a quota of processor time holds for a process; 0 without one.

    Containers and testbeds have such quotas: a process computes at full speed until a period's is
    spent, and then waits for the next period.

    Args:
        process: its number, or ``self``.
        root: where control groups are mounted.
    """
    try:
        lines = Path(f"/proc/{process}/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return 0.0
    periods = [0.0]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in _CPU_MOUNTS:
            group = root / mount / path.lstrip("/")
            periods += [_period_s(own) for own in (group, *group.parents) if root in own.parents]
            periods.append(_period_s(root / mount))
    return max(periods)


def _period_s(group: Path) -> float:
    """Of one group; 0 where it has no quota."""
    try:
        if os.path.exists(group / "cpu.max"):
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
    except (OSError, ValueError):
        return 0.0
    return 0.0 if quota in ("max", "-1") else int(period) / 1e6
