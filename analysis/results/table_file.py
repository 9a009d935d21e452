"""Tables that d2ft wrote, read back: CSV or Parquet."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named


def read_table(
    path: Path, columns: Collection[str], made_by: str, texts: Collection[str] = ()
) -> pd.DataFrame:
    """A table by the path's ending, .parquet or else CSV.

    Args:
        path: of the file.
        columns: that it must have.
        made_by: the command that writes such tables, for people.
        texts: of the columns, those that are no numbers.

    Raises:
        InputError: not there, not a table, empty, without a column, or text among numbers.
    """
    path = Path(path)
    check_named(path)
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, dtype=dict.fromkeys(texts, str))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as a table ({reason})") from None
    for name in columns:
        if name not in table.columns:
            raise InputError(f"{path}: has no column {name!r}; it must be a table of '{made_by}'")
        if name not in texts:
            _check_numbers(path, table[name])
    if table.empty:
        raise InputError(f"{path}: has no rows; it must be a table of '{made_by}'")
    return table


def matching(path: Path, table: pd.DataFrame, conditions: Collection[str]) -> pd.DataFrame:
    """The rows that fulfil every condition.

    Args:
        path: of the table, for people.
        table: of any columns.
        conditions: each as ``COLUMN=VALUE``.

    Raises:
        InputError: no such column, or no such row.
    """
    for condition in conditions:
        name, is_there, value = condition.partition("=")
        if not is_there or name not in table.columns:
            raise InputError(
                f"--where is {condition!r}; it must be COLUMN=VALUE with a column of {path}: "
                f"{', '.join(table.columns)}"
            )
        found = table[_equals(table[name], value)]
        if found.empty:
            known = ", ".join(str(v) for v in table[name].unique()[:12])
            raise InputError(f"--where {condition}: {path} has no such row; {name} is {known}")
        table = found
    return table


def _equals(column: pd.Series, value: str) -> pd.Series:
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return column.astype(str) == value
    try:
        return pd.Series(np.isclose(column, float(value), rtol=1e-9, atol=0), index=column.index)
    except ValueError:
        return pd.Series(False, index=column.index)


def _check_numbers(path: Path, column: pd.Series) -> None:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        return
    wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    if len(wrong):
        raise InputError(
            f"{path}: line {wrong.index[0] + 2}: {column.name} is {wrong.iloc[0]!r}; it must be a "
            f"number"
        )
