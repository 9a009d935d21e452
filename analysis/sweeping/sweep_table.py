"""The table of a sweep: made from rows, written, read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.results.pareto import pareto_front
from analysis.results.table_file import read_records
from analysis.sweeping.sweep_point import COLUMNS
from analysis.sweeping.sweep_row import TableRow, read_row
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_atomically, write_text

GIVEN = ("cluster", "bandwidth_scale", "compute_scale", "model", "minibatch_samples")
"""Columns that are facts to a user rather than choices: plans compete where these agree."""
CHOSEN = (
    "cluster", "compute_scale", "model", "minibatch_samples", "solver", "heads_per_subnet",
    "num_microbatches",
)  # fmt: skip
"""Columns besides budgets and bandwidth."""
TEXTS = ("cluster", "model", "heads_per_subnet", "placement", "solver", "status", "note",
         "best_dense_way", "fewer_samples_way")  # fmt: skip


def sweep_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """`COLUMNS` of the rows and ``is_pareto``: no other plan of the same `GIVEN` keeps as much
    score in as short a step."""
    table = _typed(pd.DataFrame(rows, columns=list(COLUMNS)))
    table["is_pareto"] = False
    solved = table[table["retained_score_fraction"].notna()]
    for _, own in solved.groupby(list(GIVEN), sort=False):
        goals = np.column_stack([own["predicted_step_s"], -own["retained_score_fraction"]])
        table.loc[own.index[pareto_front(goals)], "is_pareto"] = True
    return table


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write CSV or Parquet by the path's ending, atomically."""
    if path.suffix == ".parquet":
        write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
    else:
        write_text(path, table.to_csv(index=False))


def load_table(path: Path) -> pd.DataFrame:
    """Read what `save_table` wrote.

    Raises:
        InputError: not there, not a table, without one of its columns, or with a row that is none
            of a sweep; the line names row and column.
    """
    rows = []
    for line, record in read_records(path, [*COLUMNS, "is_pareto"], "d2ft sweep"):
        try:
            rows.append(read_row(TableRow, record))
        except InputError as error:
            raise InputError(f"{path}: line {line}: {error}") from None
    return _typed(pd.DataFrame(rows, columns=[*COLUMNS, "is_pareto"]))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """With numbers as such where a column has gaps or is empty."""
    numeric = [name for name in table.columns if name not in (*TEXTS, "is_pareto")]
    table[numeric] = table[numeric].apply(pd.to_numeric)
    return table.assign(note=table["note"].fillna(""))


def thinned(front: pd.DataFrame, at_most: int) -> pd.DataFrame:
    """So many rows of a front, evenly picked where there are more; first and last stay."""
    picked = np.linspace(0, len(front) - 1, min(len(front), at_most)).round().astype(int)
    return front.iloc[picked]
