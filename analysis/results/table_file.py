"""Tables that d2ft wrote, read back: CSV or Parquet."""

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from d2ft_sched.errors import InputError
from d2ft_sched.files.text_file import read_text

_NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf|nan|", re.ASCII | re.IGNORECASE
)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)


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
    table = _read_parquet(path) if path.suffix == ".parquet" else read_csv(path, texts)
    for name in columns:
        if name not in table.columns:
            raise InputError(f"{path}: has no column {name!r}; it must be a table of '{made_by}'")
        if name not in texts:
            _check_numbers(path, table[name])
    if table.empty:
        raise InputError(f"{path}: has no rows; it must be a table of '{made_by}'")
    return table


def read_csv(path: Path, texts: Collection[str]) -> pd.DataFrame:
    """A CSV table whose texts are texts, whatever they look like: ``NA``, ``007`` and ``None``.

    Columns besides `texts` are numbers, or True and False, where all of their cells are; an empty
    cell is no number (NaN). All others are texts as well.

    Raises:
        InputError: not there, or not a table.
    """
    try:
        return parse_csv(read_text(path), texts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_csv(content: str, texts: Collection[str]) -> pd.DataFrame:
    """As `read_csv`, of the content; errors have no file's name."""
    try:
        table = pd.read_csv(io.StringIO(content), dtype=str, na_filter=False, index_col=False)
    except ValueError as error:  # pandas' own errors are such
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot be read as a table ({reason})") from None
    return table.assign(
        **{name: _as_numbers(table[name]) for name in table.columns if name not in texts}
    )


def read_records(
    path: Path, columns: Collection[str], made_by: str
) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a table by the path's ending with their lines, the last one of a row that has
    several; cells are unread: texts in CSV, or None.

    Raises:
        InputError: as `read_table`, except that no cell is looked at.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        table = _read_parquet(path)
        names = list(map(str, table.columns))
        cells = table.astype(object).where(table.notna(), None).to_dict("records")
        rows: list[tuple[int, dict[Any, Any]]] = list(enumerate(cells, start=2))
    else:
        try:
            reader = csv.DictReader(io.StringIO(read_text(path)))
            rows = [(reader.line_num, row) for row in reader]
            names = list(reader.fieldnames or ())
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except csv.Error as error:
            raise InputError(f"{path}: cannot be read as a table ({error})") from None
    for name in columns:
        if name not in names:
            raise InputError(f"{path}: has no column {name!r}; it must be a table of '{made_by}'")
    if not rows:
        raise InputError(f"{path}: has no rows; it must be a table of '{made_by}'")
    for line, row in rows:
        if None in row:
            raise InputError(f"{path}: line {line}: has more cells than the first line")
    return rows


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot be read as a table ({reason})") from None


def _as_numbers(column: pd.Series) -> pd.Series:
    """As whole numbers, numbers, or True and False where all cells are such; else as it is."""
    cells = column.tolist()
    if all(cell in ("True", "False") for cell in cells):
        return column == "True"
    if all(map(_WHOLE.fullmatch, cells)):
        return column.astype("int64")
    if all(map(_NUMBER.fullmatch, cells)):
        return column.where(column != "", "nan").astype(float)
    return column


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


def check_finite(path: Path, table: pd.DataFrame, columns: Collection[str]) -> None:
    """Refuse rows of numeric columns that have none, or an infinite one.

    Args:
        path: of the table, for people.
        table: rows of it, under their own index.
        columns: to be looked at.
    """
    for name in columns:
        wrong = table.index[~np.isfinite(table[name].to_numpy(dtype=float))]
        if len(wrong):
            raise InputError(
                f"{path}: line {wrong[0] + 2}: {name} is {table[name][wrong[0]]}; it must be a "
                f"finite number"
            )


def _check_numbers(path: Path, column: pd.Series) -> None:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column):
        return
    wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna() & (column != "")]
    if len(wrong):
        raise InputError(
            f"{path}: line {wrong.index[0] + 2}: {column.name} is {wrong.iloc[0]!r}; it must be a "
            f"number"
        )
