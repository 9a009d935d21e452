"""Where a result file comes from: versions, machine, seed and command."""

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("d2ft", "numpy", "ortools", "torch", "timm")


def provenance(
    seed: int, command: Sequence[str] | None = None, **facts: str | int | float
) -> dict[str, str | int | float]:
    """Facts to store beside a result; versions are read without importing the packages.

    Args:
        seed: the seed of every random choice.
        command: argument list, default that of this process.
        facts: more of them, such as the device that was measured.
    """
    arguments = list(sys.argv if command is None else command)
    arguments[0] = Path(arguments[0]).name
    return {
        "command": shlex.join(arguments),
        "seed": seed,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        **{f"{name}_version": package_version(name) for name in PACKAGES},
        **facts,
    }


def package_version(package: str) -> str:
    """The installed version, read without importing the package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
