"""Plans beside their own table of ways, over many clusters, models and mini-batches.

``python -m bench.bench_ways --out DIR`` writes ``ways.csv``: for every case the least dense step
that any way reaches (of up to six devices all ways are tried), the plan with a whole budget, and
the plan with 60 % of the compute beside fewer samples of the same compute. All are predictions.
"""

import argparse
import time
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from bench.way_cases import Case, cases
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from sim.ways.groups import MAX_EXHAUSTIVE_GROUPS, partitions
from sim.ways.load import dense_load
from sim.ways.plans import plan_on_ways
from sim.ways.search import WaySearch, best_dense, search_ways, way_of


def least_dense_s(search: WaySearch) -> float:
    """The least dense step over all ways to form replicas, of few devices, predicted where the
    estimate is short enough; else that of the search."""
    steps, load = search.steps, dense_load(search.workload)
    everyone = range(len(search.cluster.devices))
    least = best_dense(search).dense_step_s
    if len(everyone) > MAX_EXHAUSTIVE_GROUPS:
        return least
    groups = [group for k in everyone[1:] for group in combinations(everyone, k + 1)]
    alone = [tuple((d,) for d in some) for k in everyone for some in combinations(everyone, k + 1)]
    for replicas in (*alone, *partitions(everyone, groups, everyone)):
        found = steps.level(replicas, load, below_s=least)
        if found is not None and found.step_s < least:
            way = way_of(steps, found)
            least = min(least, way.dense_step_s) if way.fits else least
    return least


def row(case: Case) -> dict[str, Any]:
    """One line of the table."""
    begin = time.perf_counter()
    search = search_ways(case.workload, case.cluster)
    searched_s = time.perf_counter() - begin
    workload = case.workload
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    whole, part, bytes_too = (
        plan_on_ways(workload, case.cluster, scores, budget, search=search)
        for budget in (Budget(), Budget(compute=0.6), Budget(compute=0.6, communication=0.5))
    )
    least_s = least_dense_s(search)
    return {
        "case": case.name,
        "num_devices": len(case.cluster.devices),
        "least_dense_s": least_s,
        "lower_bound_s": search.lower_bound_s,
        "way": best_dense(search).name.value,
        "whole_budget_s": whole.step_s,
        "over_least": whole.step_s / least_s - 1,
        "fewer_samples_s": part.fewer.dense_step_s,
        "compute_0.6_s": part.step_s,
        "compute_0.6_method": part.method,
        "compute_0.6_samples": sum(part.samples) / sum(whole.samples),
        "and_bytes_0.5_s": bytes_too.step_s,
        "and_bytes_0.5_method": bytes_too.method,
        "and_bytes_0.5_samples": sum(bytes_too.samples) / sum(whole.samples),
        "search_s": searched_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/ways"))
    parser.add_argument("--per-cluster", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for case in cases(arguments.per_cluster):
        rows.append(row(case))
        print(", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in rows[-1].values()))
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    write_text(arguments.out / "ways.csv", table.to_csv(index=False))
    print(
        f"{len(table)} cases: at most {table['over_least'].max():.2%} over the least dense step; "
        f"slower than fewer samples in "
        f"{int((table['compute_0.6_s'] > table['fewer_samples_s']).sum())}"
    )


if __name__ == "__main__":
    main()
