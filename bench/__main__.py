"""Run every benchmark of this folder, one after another: ``python -m bench [NAME ...] [OPTIONS]``.

Each ``bench_NAME.py`` measures its ratios side by side in one run and prints a table; none asserts.
Options go to the benchmark that is named, such as ``python -m bench step --device cuda``.
"""

import importlib
import sys
from itertools import takewhile
from pathlib import Path


def main() -> None:
    known = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    names = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(names) :]
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"unknown benchmark {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    if options and len(names) != 1:
        sys.exit(f"options {' '.join(options)} are of one benchmark; name it before them")
    sys.argv = [sys.argv[0], *options]
    for name in names or known:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.bench_{name}").main()


if __name__ == "__main__":
    main()
