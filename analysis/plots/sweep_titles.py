"""What rows of a sweep have in common, as titles of their pictures and tables."""

import pandas as pd


def describe_given(table: pd.DataFrame) -> str:
    """One line for the title of rows that agree in cluster, scales, model and mini-batch."""
    first = table.iloc[0]
    parts = [f"{first['model']} on {first['cluster']}", f"{first['minibatch_samples']} samples"]
    parts += [
        f"{what} x {first[f'{what}_scale']:g}"
        for what in ("bandwidth", "compute")
        if first[f"{what}_scale"] != 1
    ]
    return ", ".join(parts)


def describe_choice(table: pd.DataFrame) -> str:
    """One line for what else rows agree in."""
    first = table.iloc[0]
    return (
        f"{first['solver']}, {first['num_microbatches']} micro-batches, "
        f"heads per subnet {first['heads_per_subnet']}"
    )
