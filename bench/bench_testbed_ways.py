"""Plans on several ways of four unequal hosts, measured beside prediction (Linux, root, iproute2).

``python -m bench.bench_testbed_ways --out docs/results/testbed/ways`` profiles the hosts of
``examples/clusters/testbed_unequal.yaml``, makes plans for what it measured, runs them, and writes
``ways.csv`` and ``phases.csv``, ``summary.json``, ``cluster.yaml``, ``README.md`` with the tables,
and a picture. What ``--work`` already has is not run again; after ``--minutes`` it stops, to be
gone on with by the same command.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.console.output import finite, messages, seconds
from analysis.plots.save import save_both
from analysis.plots.validation import validation_scatter
from analysis.validating.plans_tried import QUANTITIES, agreement
from bench.testbed_ways.study_plans import BEST_DENSE, CHOSEN, FEWER, StudyPlan
from bench.testbed_ways.ways_study import (
    MEASURED_CLUSTER,
    WaysStudy,
    measured_tables,
    run_ways_study,
)
from d2ft_sched import provenance
from d2ft_sched.files.atomic_write import write_text
from runtime import device_name, select_device

CLUSTER = Path(__file__).parents[1] / "examples/clusters/testbed_unequal.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/testbed_ways/results"))
    parser.add_argument("--work", type=Path, default=Path("out/testbed_ways"), help="while it runs")
    parser.add_argument("--minutes", type=float, default=12.0, help="after which to stop")
    parser.add_argument("--model", default=WaysStudy.model)
    parser.add_argument("--image-size", type=int, default=WaysStudy.image_size)
    parser.add_argument("--microbatches", type=int, default=WaysStudy.num_microbatches)
    parser.add_argument("--microbatch-size", type=int, default=WaysStudy.microbatch_size)
    parser.add_argument("--repeats", type=int, default=WaysStudy.num_repeats)
    parser.add_argument("--profile-repeats", type=int, default=WaysStudy.profile_repeats)
    options = parser.parse_args()
    study = WaysStudy(
        CLUSTER,
        model=options.model,
        image_size=options.image_size,
        num_microbatches=options.microbatches,
        microbatch_size=options.microbatch_size,
        num_repeats=options.repeats,
        profile_repeats=options.profile_repeats,
    )
    plans = run_ways_study(study, options.work, messages.print, options.minutes)
    if plans is not None:
        write_results(study, options.work, options.out, plans)


def write_results(study: WaysStudy, work: Path, out: Path, plans: list[StudyPlan]) -> None:
    """Tables, summary and picture of what was measured in `work`."""
    table = ways_table(plans, measured_tables(work, "plans.csv"))
    device = device_name(select_device("cpu"))
    summary = ways_summary(table)
    facts = {
        **summary,
        "provenance": provenance(study.seed, device=device),
        "study": asdict(replace(study, cluster=Path(study.cluster.name))),
    }
    write_text(out / "ways.csv", table.to_csv(index=False))
    write_text(out / "phases.csv", measured_tables(work, "phases.csv").to_csv(index=False))
    write_text(out / MEASURED_CLUSTER, (work / MEASURED_CLUSTER).read_text())
    write_text(out / "summary.json", json.dumps(finite(facts), indent=1, default=str) + "\n")
    text = results_text(study, table, summary, device)
    write_text(out / "README.md", text)
    named = table.assign(plan=table["way"] + ", " + table["plan"])
    save_both(validation_scatter(named), out, "predicted_measured")
    messages.print(text, markup=False)


def ways_table(plans: list[StudyPlan], measured: pd.DataFrame) -> pd.DataFrame:
    """One row per plan in the order of the study: way, load, devices, samples, and the columns of
    `analysis.validating.plans_tried.validation_table`."""
    said = pd.DataFrame(
        {
            "plan": one.name,
            "way": one.way,
            "load": one.load,
            "devices": one.devices,
            "samples": " | ".join(map(str, one.samples)),
        }
        for one in plans
    )
    return said.merge(measured, on="plan", how="left", validate="one_to_one")


def ways_summary(table: pd.DataFrame) -> dict[str, Any]:
    """Agreement over all plans, and the three steps that a user chooses between."""
    step_s = dict(zip(table["load"], table["measured_step_s"], strict=True))
    dense = table[table["load"].isin(["dense", BEST_DENSE])]
    quickest = dense.sort_values("measured_step_s").iloc[0]
    return {
        "num_plans": len(table),
        "agreement": {quantity: vars(agreement(table, quantity)) for quantity in QUANTITIES},
        "best_dense_step_s": float(step_s[BEST_DENSE]),
        "fewer_samples_step_s": float(step_s[FEWER]),
        "plan_step_s": float(step_s[CHOSEN]),
        "quickest_dense_measured": str(quickest["plan"]),
        "quickest_dense_measured_step_s": float(quickest["measured_step_s"]),
        "speedup_over_best_dense": float(quickest["measured_step_s"] / step_s[CHOSEN]),
    }


def results_text(
    study: WaysStudy, table: pd.DataFrame, summary: dict[str, Any], device: str
) -> str:
    """The tables as Markdown."""
    step = summary["agreement"]["step_s"]
    lines = [
        "# Ways on four unequal hosts: measured beside prediction",
        "",
        f"Hosts of `{study.cluster.name}` on one machine ({device}),",
        "one thread each, gloo, float32;",
        f"{study.model} at {study.image_size} px, "
        f"{study.num_microbatches * study.microbatch_size} samples. Measured: medians of "
        f"{study.num_repeats} steps. Plans",
        f"that rest have {study.compute:.0%} of the compute and {study.gradient_bytes:.0%} of the "
        "bytes of the subnets' gradients.",
        "",
        "Mean error of the step over "
        f"{summary['num_plans']} plans {step['mean']:.1%}, largest {step['largest']:.1%} "
        f"({step['worst_plan']}), Kendall's tau {step['kendall_tau']:.3f}.",
        "The plan takes one step in "
        f"{seconds(summary['plan_step_s'])}, the quickest dense one that was measured in "
        f"{seconds(summary['quickest_dense_measured_step_s'])}: "
        f"{summary['speedup_over_best_dense']:.2f} times faster.",
        "",
        "| load | way | devices | samples | step, predicted | measured | error | bytes | FLOPs "
        "| memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict(orient="records"):
        cells = [
            row["load"],
            row["way"],
            row["devices"].replace("|", "/"),
            row["samples"].replace("|", "/"),
            seconds(row["predicted_step_s"]),
            seconds(row["measured_step_s"]),
            *(f"{row[f'error_{q}']:.1%}" for q in ("step_s", "bytes", "flops")),
            f"{row['error_peak_memory_bytes']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
