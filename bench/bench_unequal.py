"""Unequal clusters at equal step time: a D2FT plan against dense training on fewer samples.

Without arguments a short study; ``python -m bench.bench_unequal SCORES.csv OUT.csv`` runs the whole
one with measured scores and writes its table and provenance.
"""

import json
import sys
from pathlib import Path

import pandas as pd

from analysis.console.output import console, print_table
from bench.star_clusters import study_clusters
from bench.unequal.unequal_study import study, study_table
from d2ft_sched import (
    Scores,
    Workload,
    load_model_shape,
    load_scores,
    partition_by_heads,
    provenance,
    uniform_scores,
)
from d2ft_sched.files.atomic_write import write_text

NUM_MICROBATCHES, MICROBATCH_SIZE = 10, 8


def workload() -> Workload:
    """ViT-S/14 at 224 px, 80 samples."""
    shape = load_model_shape("vit_small_patch14_dinov2", image_size=224, num_classes=10)
    return Workload(shape, partition_by_heads(shape, 1), (MICROBATCH_SIZE,) * NUM_MICROBATCHES)


def main() -> None:
    work = workload()
    size = (work.num_subnets, NUM_MICROBATCHES)
    scores: dict[str, Scores] = {"uniform": uniform_scores(*size)}
    clusters = study_clusters()
    fractions: tuple[float, ...] = (0.9, 0.7, 0.5)
    if len(sys.argv) == 3:
        scores["measured"] = load_scores(Path(sys.argv[1]), *size)
    else:
        clusters, fractions = clusters[1:2], (0.6,)
    table = study_table(study(work, clusters, scores, fractions))
    show(table)
    if len(sys.argv) == 3:
        out = Path(sys.argv[2])
        write_text(out, table.to_csv(index=False))
        facts = provenance(0, device="none: every time is simulated")
        write_text(out.with_suffix(".provenance.json"), json.dumps(facts, indent=1) + "\n")


def show(table: pd.DataFrame) -> None:
    """Score kept by each method, a table per kind of scores."""
    setting = ["cluster", "setting", "target_fraction"]
    for scores, rows in table.groupby("scores", sort=False):
        wide = rows.pivot_table(
            "retained_score", setting, "method", sort=False, aggfunc="first"
        ).reset_index()
        methods = [name for name in wide.columns if name not in setting]
        print_table(
            f"Score kept at equal simulated step time, {scores} scores",
            ["cluster", "setting", "target", *methods],
            [
                [
                    str(row["cluster"]),
                    str(row["setting"]),
                    f"{row['target_fraction']:.2f} x dense",
                    *(f"{100 * row[name]:.1f} %" for name in methods),
                ]
                for row in wide.to_dict(orient="records")
            ],
        )
    plans = table[table["method"] == "plan"]
    reached = plans["step_s"] / plans["target_s"]
    console.print(
        f"Plans: {len(plans)}; step over target from {reached.min():.3f} to {reached.max():.3f}, "
        f"{(reached >= 0.98).sum()} within 2 % below it."
    )


if __name__ == "__main__":
    main()
