"""A sweep: its grid solved in parallel, each row on disk as it comes, and one table at the end."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from analysis.sweeping.sweep_grid import Point
from analysis.sweeping.sweep_journal import Journal
from analysis.sweeping.sweep_point import PlacedSetting, place_setting, solve_points
from analysis.sweeping.sweep_table import save_table, sweep_table
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import provenance
from d2ft_sched.files.sizes import check_at_most

JOURNAL, PROVENANCE = "points.jsonl", "provenance.json"
FORMATS = ("csv", "parquet")
MOST_JOBS_PER_CORE = 8
"""Beyond these, processes cost memory and save no time."""
MAX_BATCH = 16
"""Points that a process gets at once, at most."""
DASK_TIMEOUT_S = 10.0
"""Seconds that a Dask scheduler has to answer."""


class Sweep:
    """A grid and the folder where its results are.

    Attributes:
        points: of the grid, those of a setting together.
        out: the folder; ``points.jsonl`` there has the rows of all grids that were run in it.
        table: path of this grid's table.
    """

    def __init__(self, points: Sequence[Point], out: Path, table_format: str = "csv") -> None:
        """Read what the folder has.

        Raises:
            InputError: its journal is damaged, or there is no Parquet engine.
        """
        if table_format == "parquet":
            _check_parquet()
        self.points, self.out = points, Path(out)
        self.table = self.out / f"sweep.{table_format}"
        self._journal = Journal(self.out / JOURNAL)
        self._seconds = 0.0

    @property
    def num_done(self) -> int:
        """Points whose rows are on disk."""
        return sum(point.key in self._journal.rows for point in self.points)

    def run(
        self,
        *,
        jobs: int = 0,
        dask: str | None = None,
        tell: Callable[[int, int], object] = lambda done, total: None,
    ) -> list[str]:
        """Place and solve what is not done yet.

        Args:
            jobs: processes of this machine; 0 for one per core.
            dask: address of a Dask scheduler, whose workers have d2ft, in place of own processes.
            tell: told points done, and all of them.

        Returns:
            Warnings, each once.

        Raises:
            InputError: no Dask scheduler answers, the folder cannot be written to, or jobs are
                more than `MOST_JOBS_PER_CORE`.
        """
        cores = joblib.cpu_count()
        most = MOST_JOBS_PER_CORE * cores
        check_at_most(f"{jobs} processes (--jobs)", jobs, most, f"this machine has {cores} cores")
        started = time.perf_counter()
        pending = [point for point in self.points if point.key not in self._journal.rows]
        num_done = len(self.points) - len(pending)
        tell(num_done, len(self.points))
        if not pending:
            return []
        jobs = jobs or cores
        groups = [list(own) for _, own in groupby(pending, key=lambda p: p.setting.key)]
        with _backend(dask), self._journal:
            placed = {p.setting.key: p for p in _parallel(_place, groups, jobs)}
            size = int(np.clip(len(pending) // (8 * jobs), 1, MAX_BATCH))
            batches = [
                (placed[own[0].setting.key], own[start : start + size])
                for own in groups
                for start in range(0, len(own), size)
            ]
            for rows in _parallel(_solve, batches, jobs):
                self._journal.add(rows)
                num_done += len(rows)
                tell(num_done, len(self.points))
        self._seconds = time.perf_counter() - started
        return list(dict.fromkeys(line for p in placed.values() for line in p.warnings))

    def save(self) -> tuple[pd.DataFrame, list[Path]]:
        """Write the table and where it comes from; the table and the paths."""
        table = sweep_table([self._journal.rows[point.key] for point in self.points])
        save_table(table, self.table)
        facts = provenance(
            self.points[0].setting.common.seed,
            num_points=len(self.points),
            sweep_s=round(self._seconds, 3),
        )
        write_text(self.out / PROVENANCE, json.dumps(facts, indent=1) + "\n")
        return table, [self.table, self.out / PROVENANCE]


def _place(points: list[Point]) -> PlacedSetting:
    return place_setting(points[0].setting)


def _solve(batch: tuple[PlacedSetting, list[Point]]) -> list[dict[str, Any]]:
    return solve_points(*batch)


def _parallel(work: Callable[[Any], Any], items: Iterable[Any], jobs: int) -> Iterator[Any]:
    run = joblib.Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    yield from run(joblib.delayed(work)(item) for item in items)


@contextmanager
def _backend(dask: str | None) -> Iterator[None]:
    if dask is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise InputError("--dask needs the package distributed: pip install 'd2ft[dask]'") from None
    try:
        client = Client(dask, timeout=DASK_TIMEOUT_S)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"--dask is {dask!r}: no Dask scheduler answers there ({reason}); it must be an "
            f"address such as tcp://host:8786"
        ) from None
    with client, joblib.parallel_config(backend="dask"):
        yield


def _check_parquet() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(
            "--format parquet needs pyarrow: pip install 'd2ft[parquet]', or take csv"
        ) from None
