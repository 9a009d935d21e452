"""What a row of a sweep must be, in its journal as in its table."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import validate

MOST_COUNT = 2**63 - 1


def _none_for_empty(cell: object) -> object:
    return None if cell == "" else cell


def _whole(cell: object) -> object:
    """Of a column with gaps, which tables hold as floats: 3.0 or 3e16 for 3."""
    if not isinstance(cell, str) or not cell or cell.isdecimal():
        return _none_for_empty(cell)
    try:
        number = float(cell)
    except ValueError:
        return cell
    return int(number) if number.is_integer() else cell


Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Perhaps = Annotated[
    Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_none_for_empty)
]
PerhapsCount = Annotated[Annotated[int, Field(ge=0, le=MOST_COUNT)] | None, BeforeValidator(_whole)]
PerhapsAmount = Annotated[Amount | None, BeforeValidator(_none_for_empty)]
PerhapsAbove0 = Annotated[Above0 | None, BeforeValidator(_none_for_empty)]
Word = Annotated[str, Field(min_length=1)]
Note = Annotated[str | None, BeforeValidator(_none_for_empty)]


class SweepRow(BaseModel):
    """A point: `analysis.sweeping.sweep_point.COLUMNS`, empty where there is nothing."""

    cluster: Word
    num_devices: Count
    bandwidth_scale: Above0
    narrowest_link_bytes_per_s: PerhapsAbove0
    compute_scale: Above0
    model: str
    heads_per_subnet: Word
    num_subnets: Count
    num_microbatches: Count
    minibatch_samples: Count
    lora_rank: PerhapsCount
    element_bytes: Count
    num_waves: Count
    placement: Word
    budget_compute_fraction: Amount
    budget_communication_fraction: Amount
    budget_memory_fraction: Amount
    solver: Word
    seed: Annotated[int, Field(ge=0)]
    status: Word
    note: Note
    objective: Perhaps
    upper_bound: Perhaps
    gap_fraction: Perhaps
    retained_score_fraction: PerhapsAmount
    build_s: PerhapsAmount
    solve_s: PerhapsAmount
    flops: PerhapsAmount
    compute_fraction: PerhapsAmount
    exchange_bytes: PerhapsCount
    dense_exchange_bytes: PerhapsCount
    communication_fraction: PerhapsAmount
    predicted_step_s: PerhapsAbove0
    best_dense_way: Note
    predicted_dense_step_s: PerhapsAbove0
    step_fraction: PerhapsAbove0
    fewer_samples: PerhapsCount
    fewer_samples_way: Note
    predicted_fewer_samples_step_s: PerhapsAbove0
    predicted_placed_dense_step_s: PerhapsAbove0
    predicted_exchange_wait_s: PerhapsAmount
    predicted_peak_memory_bytes: PerhapsAmount
    peak_memory_fraction: PerhapsAmount
    num_devices_out_of_memory: PerhapsCount
    num_devices_used: PerhapsCount
    workload_cv: PerhapsAmount
    predicted_energy_j: PerhapsAmount
    predicted_price: PerhapsAmount


class TableRow(SweepRow):
    """A row of ``sweep.csv``."""

    is_pareto: bool


class JournalRow(SweepRow):
    """A line of ``points.jsonl``; types are exact."""

    key: str


OF_EVERY_PLAN = (
    "compute_fraction", "exchange_bytes", "predicted_step_s", "predicted_placed_dense_step_s",
    "predicted_exchange_wait_s", "predicted_peak_memory_bytes",
)  # fmt: skip
"""Columns that a row has wherever it has a plan, which is where it has a retained score."""


def read_row(schema: type[SweepRow], content: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values.

    Raises:
        InputError: a value is missing or of another kind; names the column, not the row.
    """
    strict = issubclass(schema, JournalRow)
    row = validate(schema, content, strict=strict, extra="ignore").model_dump()
    if row["retained_score_fraction"] is not None:
        for name in OF_EVERY_PLAN:
            if row[name] is None:
                raise InputError(f"{name} is missing, though there is a plan")
    return row
