"""The report's part on a study: many methods, budgets and seeds on one data set."""

from functools import partial
from math import sqrt
from pathlib import Path

import pandas as pd

from analysis.console.formatting import percent, points, points_within, saved
from analysis.plots.save import Drawing
from analysis.plots.training.method_accuracy import accuracy_against, accuracy_ranked
from analysis.reporting.headline import Answer
from analysis.reporting.report_part import ACCURACY, CERTAINTY, SAVING, Part
from analysis.reporting.report_tables import provenance_table
from analysis.results.run_dir import PROVENANCE, read_json_object
from analysis.studying.study_grid import ANY_BUDGET, OWN_BUDGET
from analysis.studying.study_summary import PLOTS, load_results, methods_table, summary_table
from analysis.studying.study_table import RUNS
from d2ft_sched.files.counted import counted

_PICTURES = {
    "compute_fraction": "Accuracy against compute",
    "simulated_s": "Accuracy against predicted time on the cluster",
    "measured_s": "Accuracy against measured time here",
}


def study_part(folder: Path) -> Part | None:
    """The part on a folder that 'd2ft study' wrote; None for another folder.

    Raises:
        InputError: its tables are damaged.
    """
    if not (folder / RUNS).exists():
        return None
    runs, curves = load_results(folder)
    provenance = read_json_object(folder / PROVENANCE)
    summary = summary_table(runs)
    name = str(provenance.get("study", folder.name))
    clusters = list(dict.fromkeys(summary["cluster"]))
    drawings: dict[str, Drawing] = {}
    titles = []
    for number, cluster in enumerate(clusters):
        of_cluster = summary[summary["cluster"] == cluster]
        own = curves[curves["cluster"] == cluster]
        pictures = {
            "accuracy_ranked": ("Ranked accuracy", partial(accuracy_ranked, of_cluster, ANY_BUDGET))
        }
        for column, title in _PICTURES.items() if len(own) else ():
            pictures[PLOTS[column]] = (title, partial(accuracy_against, own, column))
        for picture, (title, draw) in pictures.items():
            said = f"{title} for every method of the study {name} on cluster {cluster}."
            drawings[f"{picture}_{number}"] = (draw, said)
            titles.append((f"{picture}_{number}", f"{title}, {cluster}"))
    title = f"study {name}"
    return Part(
        "study",
        title,
        f"Which of {summary['method'].nunique()} methods keeps how much accuracy, and takes how "
        f"much time, on {', '.join(clusters)}?",
        _answers(name, summary),
        provenance_table(title, provenance),
        {
            "table": methods_table(summary),
            "pictures": titles,
            "left_out": _left_out(runs),
            "num_seeds": int(summary["num_seeds"].min()) if len(summary) else 0,
        },
        drawings,
    )


def _left_out(runs: pd.DataFrame) -> list[str]:
    without = runs[runs["top1"].isna()]
    return [
        f"{row['method']} at {row['budget']} on {row['cluster']}, seed {row['seed']}: "
        f"{row.get('note', 'no accuracy')}"
        for row in without.to_dict("records")
    ]


def _answers(name: str, summary: pd.DataFrame) -> tuple[Answer, ...]:
    """Of the most accurate method that spends less than dense, against the quickest dense run of
    its cluster."""
    pairs = []
    for cluster in dict.fromkeys(summary["cluster"]):
        own = [row for row in summary.to_dict("records") if row["cluster"] == cluster]
        dense = [row for row in own if row["budget"] == ANY_BUDGET]
        others = [row for row in own if row["budget"] != ANY_BUDGET]
        if dense and others:
            reference = min(dense, key=lambda row: row["simulated_total_s"])
            pairs.append((reference, max(others, key=lambda row: row["top1_mean"])))
    if not pairs:
        return ()
    reference, method = max(pairs, key=lambda pair: pair[1]["top1_mean"])
    cluster = method["cluster"]
    which = f"“{method['method']}”"
    if method["budget"] != OWN_BUDGET:
        which += f" at {method['budget']}"
    spared = 1 - method["simulated_total_s"] / reference["simulated_total_s"]
    change = float(method["top1_mean"] - reference["top1_mean"])
    seeds = int(method["num_seeds"])
    spread = (
        f"±{100 * method['top1_std']:.1f} points over {counted(seeds, 'seed')}"
        if seeds > 1
        else "one seed: the spread is not known"
    )
    figure = "not known: one seed"
    said = f"The two differ by {points(change)}, of which chance may be all."
    if seeds > 1:
        stds = (float(row["top1_std"]) for row in (method, reference))
        interval = 1.96 * sqrt(sum(std**2 for std in stds) / seeds)
        figure = points_within(change, interval)
        said = f"The difference is {'within' if abs(change) <= interval else 'beyond'} chance."
    return (
        Answer(
            SAVING,
            saved(float(spared), "training time"),
            f"predicted for {cluster} in the study {name}, by {which}, the most accurate method "
            f"below the dense cost, against “{reference['method']}”, the quickest dense run",
            (f"Compute, scoring included: {percent(float(method['compute_fraction']))} of dense.",),
        ),
        Answer(
            CERTAINTY,
            spread,
            f"of top-1 in the study {name}; its seconds on the cluster are predictions",
            (),
        ),
        Answer(
            ACCURACY,
            figure,
            f"top-1 in the study {name}, mean over {seeds} seed{'s' if seeds > 1 else ''}: {which} "
            f"{percent(float(method['top1_mean']))}, “{reference['method']}” "
            f"{percent(float(reference['top1_mean']))}",
            (f"Spread: {spread}.", said),
        ),
    )
