"""System commands of the testbed, and what they need."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from d2ft_sched.errors import InputError


def missing_requirements() -> list[str]:
    """What this machine lacks for network namespaces and shaped links, a few words each."""
    missing = []
    if not hasattr(os, "pidfd_open"):
        return ["Linux 5.3 or newer"]
    if os.geteuid() != 0:
        missing.append("root")
    missing += [
        f"the command '{name}' (package iproute2)"
        for name in ("ip", "tc")
        if shutil.which(name) is None
    ]
    return missing


def require_testbed() -> None:
    """Check `missing_requirements`.

    Raises:
        InputError: something is missing; one line names all of it.
    """
    if missing := missing_requirements():
        raise InputError(f"the testbed needs {' and '.join(missing)}")


def run_command(command: Sequence[str]) -> str:
    """Run a command to its end; its output.

    Raises:
        InputError: it failed; one line with the command and the last line that it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise InputError(f"the testbed cannot run '{' '.join(command)}': {said[-1]}")
    return done.stdout
