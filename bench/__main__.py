"""Run every benchmark of this folder, one after another: ``python -m bench [NAME ...]``.

Each ``bench_NAME.py`` measures its ratios side by side in one run and prints a table; none asserts.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    known = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:] or known
    unknown = set(wanted) - set(known)
    if unknown:
        sys.exit(f"unknown benchmark {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    sys.argv = sys.argv[:1]
    for name in wanted:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.bench_{name}").main()


if __name__ == "__main__":
    main()
