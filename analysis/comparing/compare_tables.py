"""Comparisons of solvers as tables for people and rows for programs."""

from typing import Any

import pandas as pd

from analysis.console.output import amount, percent, print_columns, seconds


def table_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, None where there is none."""
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def print_comparison(table: pd.DataFrame, title: str) -> None:
    """The table of `analysis.comparing.comparison.comparison_table`, with scores as shares of the
    least bound that any solver proved."""
    bound = table["upper_bound"].min()
    shown = table.assign(of_bound=table["objective"] / bound)
    print_columns(
        title,
        ["solver", "status", "score, of bound", "gap", "solve", "FLOPs", "bytes", "step", "CV"],
        [
            [
                str(row["solver"]),
                str(row["status"]),
                _fine_percent(row["of_bound"]),
                _fine_percent(row["gap"]),
                seconds(row["solve_s"]),
                percent(row["compute_fraction"]),
                percent(row["communication_fraction"]),
                _or_dash(row["predicted_step_s"], seconds),
                _or_dash(row["workload_cv"], lambda v: f"{v:.3f}"),
            ]
            for row in table_rows(shown)
        ],
    )


def print_setups(table: pd.DataFrame, title: str) -> None:
    """The table of `analysis.comparing.compare_setups.compare_setups`."""
    shown = table.assign(of_bound=table["objective"] / table["upper_bound"].min())
    print_columns(
        title,
        ["solver", "status", "score, of bound", "gap", "build", "solve", "blocks training",
         "gradient bytes", "step"],
        [
            [
                str(row["solver"]),
                str(row["status"]),
                _fine_percent(row["of_bound"]),
                _fine_percent(row["gap"]),
                seconds(row["build_s"]),
                seconds(row["solve_s"]),
                _or_dash(row["num_training"], lambda v: f"{v:.0f}"),
                percent(row["gradient_fraction"]),
                _or_dash(row["predicted_step_s"], seconds),
            ]
            for row in table_rows(shown)
        ],
    )  # fmt: skip


def print_scaling(table: pd.DataFrame) -> None:
    """The table of `analysis.comparing.scaling.scaling_table`; a dash where a solver gave
    nothing."""
    for (devices, tightness), group in table.groupby(["num_devices", "tightness"], sort=False):
        print_columns(
            f"{devices} devices, tightness {tightness:g}",
            ["solver", "status", "score kept", "gap", "build", "solve", "memory", "CV", "step"],
            [
                [
                    str(row["solver"]),
                    str(row["status"]),
                    _fine_percent(row["retained_score"]),
                    _fine_percent(row["gap"]),
                    _or_dash(row["build_s"], seconds),
                    _or_dash(row["solve_s"], seconds),
                    _or_dash(row["extra_memory_bytes"], lambda v: amount(v, "B")),
                    _or_dash(row["workload_cv"], lambda v: f"{v:.3f}"),
                    _or_dash(row["simulated_step_s"], seconds),
                ]
                for row in table_rows(group)
            ],
        )


def _fine_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _or_dash(value: float | None, show: Any) -> str:
    return "-" if value is None else show(value)
