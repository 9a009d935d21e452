"""What a study of re-planning shows: step times of every run, and how soon they came back."""

from pathlib import Path

import pandas as pd

from analysis.finetuning.metrics_file import METRICS, read_records
from analysis.finetuning.read_back import steps_of
from bench.replan.replan_study import RUNS, ReplanStudy, run_folder

WITHIN = 0.15
"""How close to its first step time a training has to come back."""

NUM_SMOOTHED = 5
"""Steps over which medians are taken."""

NUM_FIRST = 4
"""Steps at the beginning that count for nothing: they set much up."""


def read_steps(study: ReplanStudy, out: Path) -> pd.DataFrame:
    """One row per step of every run, with its seed and its run's name."""
    tables = []
    for seed in study.seeds:
        for name in RUNS:
            table = steps_of(read_records(run_folder(out, name, seed) / METRICS))
            table.insert(0, "seed", seed)
            table.insert(0, "run", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def final_top1(metrics: Path) -> float:
    """Test accuracy at the end of a training."""
    return float([r["top1"] for r in read_records(metrics) if r["event"] == "evaluated"][-1])


def summary_of(study: ReplanStudy, out: Path, steps: pd.DataFrame) -> pd.DataFrame:
    """One row per run.

    Columns: ``before_s``, ``disturbed_s`` (from 20 steps after the disturbance to its end) and
    ``after_s`` are medians of the step time; ``over_before`` is the second over the first;
    ``back_within_15_percent_after`` counts the steps from the disturbance to the first median of
    `NUM_SMOOTHED` steps that is at most `WITHIN` above ``before_s`` and begins after the
    disturbance, empty where there is none; then the fraction of FLOPs over those of the
    undisturbed run, and the accuracy at the end.
    """
    rows = []
    for (seed, name), run in steps.groupby(["seed", "run"], sort=False):
        metrics = run_folder(out, str(name), int(str(seed))) / METRICS
        step_s = run.set_index("step")["step_s"]
        before_s = step_s.loc[NUM_FIRST + 1 : study.from_step].median()
        settled = step_s.loc[study.from_step + 20 : study.until_step].median()
        smoothed = step_s.loc[study.from_step + 1 : study.until_step]
        smoothed = smoothed.rolling(NUM_SMOOTHED).median().shift(1 - NUM_SMOOTHED).dropna()
        back = smoothed[smoothed <= (1 + WITHIN) * before_s]
        rows.append(
            {
                "run": name,
                "seed": seed,
                "before_s": before_s,
                "disturbed_s": settled,
                "over_before": settled / before_s,
                "back_within_15_percent_after": None
                if back.empty
                else int(back.index[0]) - study.from_step,
                "after_s": step_s.loc[study.until_step + 11 :].median(),
                "flops": run["flops"].sum(),
                "num_replanned": int((run["replanned"] != "").sum()),
                "top1": final_top1(metrics),
            }
        )
    table = pd.DataFrame(rows)
    most = table.groupby("seed")["flops"].transform("max")
    table["flops_of_undisturbed"] = table.pop("flops") / most
    return table
