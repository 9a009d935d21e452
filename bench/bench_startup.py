"""Start-up of the command line beside that of the interpreter: ``python -m bench startup``.

Both are run in turns, so that the file cache is as warm for one as for the other.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

NUM_RUNS = 9
TARGET_S = 0.5
PYTHON = [sys.executable, "-c", "pass"]
COMMANDS = {
    "d2ft --help": [sys.executable, "-m", "analysis.cli", "--help"],
    "d2ft plan --help": [sys.executable, "-m", "analysis.cli", "plan", "--help"],
}


def _seconds(command: Sequence[str]) -> np.ndarray:
    """Seconds on the clock and of the processor, float ``[2]``."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime])


def main() -> None:
    every = {"python -c pass": PYTHON, **COMMANDS}
    for command in every.values():
        _seconds(command)
    runs = [{name: _seconds(command) for name, command in every.items()} for _ in range(NUM_RUNS)]
    for name in COMMANDS:
        more = np.stack([run[name] - run["python -c pass"] for run in runs])
        wall_s, cpu_s = np.median(more, axis=0)
        verdict = "ok" if wall_s < TARGET_S else "MISSED"
        print(
            f"{name:18}{wall_s:6.2f} s more than python -c pass ({more[:, 0].min():.2f} to "
            f"{more[:, 0].max():.2f} s), {cpu_s:.2f} s of the processor (target below "
            f"{TARGET_S:g} s) {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
