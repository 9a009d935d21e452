"""What ``d2ft --version`` says: enough for a bug report, without importing anything heavy."""

import os
import platform
from pathlib import Path

from d2ft_sched.files.provenance import package_version, processor_name

PACKAGES = ("torch", "torchvision", "timm", "transformers", "ortools", "numpy", "pydantic", "typer")
_NVIDIA = Path("/proc/driver/nvidia")


def version_lines(nvidia: Path = _NVIDIA) -> list[str]:
    """d2ft's version first, then those of what it runs on, then the devices of this machine.

    Args:
        nvidia: where NVIDIA's driver for Linux describes itself and its GPUs.
    """
    return [
        f"d2ft {package_version('d2ft')}",
        f"python {platform.python_version()}",
        *(f"{name} {package_version(name)}" for name in PACKAGES),
        f"platform {platform.platform()}",
        f"cpu {processor_name()}, {os.cpu_count()} logical cores",
        *(_gpus(nvidia) or ["gpu none that NVIDIA's driver names"]),
    ]


def _gpus(nvidia: Path) -> list[str]:
    driver = _first_line(nvidia / "version").removeprefix("NVRM version: ")
    lines = [
        f"gpu {model}"
        for path in sorted(nvidia.glob("gpus/*/information"))
        if (model := _model(path))
    ]
    return [*lines, f"driver {' '.join(driver.split())}"] if lines and driver else lines


def _model(information: Path) -> str:
    for line in _read(information).splitlines():
        name, _, value = line.partition(":")
        if name == "Model":
            return value.strip()
    return ""


def _first_line(path: Path) -> str:
    return next(iter(_read(path).splitlines()), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
