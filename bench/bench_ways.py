"""Plans beside their own table of ways, over many clusters, models and mini-batches.

``python -m bench.bench_ways --out DIR`` writes ``ways.csv``: for every case the least dense step
that any way reaches (of up to six devices the ways are tried one by one, priced by the simulator,
see `bench.ways.least_dense`), the plan with a whole budget, and the plan with 60 % of the compute
beside fewer samples of the same compute. All are predictions. The table is written after every
case, and what is there is not run again.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from bench.ways.least_dense import MOST_DEVICES, LeastDense
from bench.ways.way_cases import Case, cases, odd_cases
from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import uniform_scores
from sim.ways.plans import plan_on_ways
from sim.ways.search import WaySearch, best_dense, search_ways


def least_dense_s(search: WaySearch) -> float:
    """The least simulated dense step, of few devices over all ways to form replicas; else that of
    the search."""
    least_s = best_dense(search).dense_step_s
    if len(search.cluster.devices) > MOST_DEVICES:
        return least_s
    return min(least_s, LeastDense(search.workload, search.cluster).found().step_s)


def row(case: Case) -> dict[str, Any]:
    """One line of the table."""
    begin = time.process_time()
    search = search_ways(case.workload, case.cluster)
    searched_s = time.process_time() - begin
    workload = case.workload
    scores = uniform_scores(workload.num_subnets, workload.num_microbatches)
    whole, part, bytes_too = (
        plan_on_ways(workload, case.cluster, scores, budget, search=search)
        for budget in (Budget(), Budget(compute=0.6), Budget(compute=0.6, communication=0.5))
    )
    planned_s = time.process_time() - begin
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
        "search_cpu_s": searched_s,
        "search_and_three_plans_cpu_s": planned_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/ways"))
    parser.add_argument("--part", default="1/1", help="i/n: every n-th case from the i-th on")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    first, step = map(int, arguments.part.split("/"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "ways.csv"
    rows: list[Any] = []
    if file.exists():
        rows += pd.read_csv(file).to_dict(orient="records")
    known = {one["case"] for one in rows}
    for case in [*cases(), *odd_cases()][first - 1 :: step]:
        if case.name in known:
            continue
        try:
            rows.append(row(case))
        except InputError as error:  # no way fits its memory
            print(f"{case.name}: {error}", flush=True)
            continue
        told = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in rows[-1].values())
        print(", ".join(told), flush=True)
        write_text(file, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))
    table = pd.DataFrame(rows)
    print(
        f"{len(table)} cases: at most {table['over_least'].max():.2%} over the least dense step; "
        f"slower than fewer samples in "
        f"{int((table['compute_0.6_s'] > table['fewer_samples_s']).sum())}"
    )


if __name__ == "__main__":
    main()
