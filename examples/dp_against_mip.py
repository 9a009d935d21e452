"""DP against MIP: the same problem through the exact DP, the paper's two stages and OR-Tools.

    python examples/dp_against_mip.py --out out/examples/solvers

Scores are drawn at random, so that choices differ; costs are those of the cluster. The objective is
shown against the best bound that any solver proved.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis import (
    compare_solvers,
    comparison_table,
    quantity,
    read_request,
    save_both,
    solver_comparison,
)
from d2ft_sched import Budget, Scores, deploy

CLUSTERS = Path(__file__).parent / "clusters"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", type=Path, default=CLUSTERS / "unequal_cpus.yaml")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--microbatches", type=int, default=16)
    parser.add_argument("--solvers", default="dp,two_stage,lagrangian,scip,highs")
    parser.add_argument("--time-limit", type=float, default=30.0, help="seconds of each solver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/examples/dp_against_mip"))
    given = parser.parse_args(arguments)

    request = read_request(
        model=given.model,
        image_size=given.image_size,
        num_classes=10,
        microbatches=given.microbatches,
        microbatch_size=4,
        cluster_file=given.cluster,
        scores_file=None,
        budget=Budget(compute=0.6, communication=0.7),
    )
    workload = request.workload
    size = (workload.num_subnets, workload.num_microbatches)
    rng = np.random.default_rng(given.seed)
    request = replace(request, scores=Scores(rng.lognormal(size=size), rng.lognormal(size=size)))
    answers = compare_solvers(
        deploy(workload, request.cluster),
        request.scores,
        request.budget,
        given.solvers.split(","),
        seed=given.seed,
        time_limit_s=given.time_limit,
    )
    table = comparison_table(request, answers)
    solvers = table[table["solver"].isin(answers) & table["objective"].notna()]
    bound = solvers["upper_bound"].min()
    for row in solvers.to_dict("records"):
        print(
            f"{row['solver']:12} {row['status']:10} {100 * row['objective'] / bound:8.4f} % of the "
            f"best bound, built in {quantity(row['build_s'], 's')}, solved in "
            f"{quantity(row['solve_s'], 's')}"
        )
    save_both(solver_comparison(solvers), given.out, "solvers")
    table.to_csv(given.out / "comparison.csv", index=False)
    print(f"Wrote {given.out}")


if __name__ == "__main__":
    main()
