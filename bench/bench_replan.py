"""Re-planning on a testbed: one of four ranks loses half its speed while a training runs.

``python -m bench.bench_replan --out DIR [--seeds 0,1,2] [--max-runs 1]`` (Linux, root, iproute2)
writes the step times of an undisturbed training, of one that is disturbed and of one that is
disturbed and re-planned, with plot, summary and provenance; what DIR already has is not run again.
Without arguments the same to ``out/replan``.
"""

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

from analysis.console.output import messages, percent, print_table, seconds
from analysis.plots.save import save_figure
from analysis.plots.training.step_seconds import step_times
from bench.replan.replan_study import ENVIRONMENT, ReplanStudy, run_replan_study
from bench.replan.replan_summary import read_steps, summary_of
from d2ft_sched import provenance
from d2ft_sched.files.atomic_write import write_text
from runtime import device_name, select_device

CLUSTER = Path(__file__).parents[1] / "examples/clusters/testbed_equal.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/replan"))
    parser.add_argument("--seeds", default="0", help="commas between them")
    parser.add_argument("--max-runs", type=int, help="trainings after which to stop; default all")
    options = parser.parse_args()
    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    study, out = ReplanStudy(CLUSTER, seeds=seeds), options.out
    if not run_replan_study(study, out, messages.print, options.max_runs):
        return
    steps = read_steps(study, out)
    summary = summary_of(study, out, steps)
    write_text(out / "steps.csv", steps.to_csv(index=False))
    write_text(out / "summary.csv", summary.to_csv(index=False))
    device = device_name(select_device("cpu"))
    title = f"{study.device} at {study.factor:g} of its speed; {device}, four ranks on one machine"
    first = steps[steps["seed"] == seeds[0]]
    figure = step_times(first, title, slower=(study.from_step, study.until_step))
    save_figure(figure, out / "steps.png")
    facts = provenance(seeds[0], device=device)
    settings = asdict(replace(study, cluster=Path(study.cluster.name)))
    record = {"provenance": facts, "study": settings, "environment": ENVIRONMENT}
    write_text(out / "provenance.json", json.dumps(record, indent=1, default=str) + "\n")
    print_table(
        title,
        ["run", "seed", "before", "slower", "ratio", "back within", "after", "FLOPs", "top-1"],
        [
            [
                row["run"],
                str(row["seed"]),
                seconds(row["before_s"]),
                seconds(row["disturbed_s"]),
                f"{row['over_before']:.2f}",
                _steps(row["back_within_15_percent_after"]),
                seconds(row["after_s"]),
                percent(row["flops_of_undisturbed"]),
                percent(row["top1"]),
            ]
            for row in summary.to_dict(orient="records")
        ],
    )


def _steps(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.0f} steps"


if __name__ == "__main__":
    main()
