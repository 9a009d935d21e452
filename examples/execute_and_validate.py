"""Execute plans on this machine and hold predictions against what was measured.

    python examples/execute_and_validate.py --out out/examples/validate

Builds a ViT with random weights, profiles this device, plans for it at several budgets, predicts a
step of each plan, and runs it with torch. The same from the command line, also on several ranks:
d2ft validate.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from analysis.console.formatting import percent, quantity
from analysis.plots.save import save_both
from analysis.plots.validation import predicted_against_measured
from analysis.results.savings import QUANTITIES, Pair, rank_correlation, worst_error
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import provenance
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.planning import make_plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import place_round_robin
from d2ft_sched.schedule.schedule import uniform_schedule
from runtime.measure.device_profile import profile_device
from runtime.measure.step_times import measure_steps
from runtime.models.build import build_model, shape_of
from runtime.steady_process import steady_process
from runtime.torch_device import device_name, select_device
from sim.step import simulate_step

BUDGETS = (0.8, 0.6, 0.4, 0.2)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--microbatch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5, help="of everything timed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/examples/execute_and_validate"))
    given = parser.parse_args(arguments)

    steady_process()
    device = select_device(given.device)
    model = build_model(
        given.model, image_size=given.image_size, num_classes=10, seed=given.seed
    ).to(device)
    shape = shape_of(model)
    workload = Workload(shape, partition_by_heads(shape, 1), (given.microbatch_size,) * 5)
    cluster = Cluster(
        "this-device", (profile_device(model, workload, device, num_repeats=given.repeats),)
    )

    size = (workload.num_subnets, workload.num_microbatches)
    rng = np.random.default_rng(given.seed)
    scores = Scores(rng.lognormal(size=size), rng.lognormal(size=size))
    schedules = {"dense": uniform_schedule(*size, Operation.FULL)}
    for budget in BUDGETS:
        plan = make_plan(workload, cluster, scores, Budget(compute=budget))
        schedules[f"compute {100 * budget:.0f} %"] = plan.schedule

    alone = place_round_robin(workload.partition, workload.num_microbatches, 1)
    predicted = {
        name: simulate_step(workload, cluster, alone, schedule)
        for name, schedule in schedules.items()
    }
    measured = measure_steps(model, workload, schedules, device, num_repeats=given.repeats)

    print(f"One step of {shape.name} on {device_name(device)}: predicted, measured, error")
    panels = []
    for title, name, unit in QUANTITIES:
        if name == "exchange_bytes":
            continue
        pairs = {
            run: Pair(float(np.max(getattr(said, name))), float(getattr(measured[run], name)))
            for run, said in predicted.items()
        }
        panels.append((title, unit, pairs))
        for run, pair in pairs.items():
            assert pair.measured is not None
            print(
                f"  {title:12} {run:14} {quantity(pair.predicted, unit):>12} "
                f"{quantity(pair.measured, unit):>12} {percent(pair.error or 0.0):>8}"
            )
        tau = rank_correlation(pairs)
        print(
            f"  {title:12} largest error {percent(worst_error(pairs) or 0.0)}, Kendall's tau "
            f"{'-' if tau is None else f'{tau:.2f}'}"
        )
    save_both(predicted_against_measured(panels), given.out, "predicted_measured")
    result = {
        "device": device_name(device),
        "quantities": {
            title: {run: vars(pair) for run, pair in pairs.items()} for title, _, pairs in panels
        },
        "provenance": provenance(given.seed, device=device_name(device)),
    }
    write_text(given.out / "validation.json", json.dumps(result, indent=1) + "\n")
    print(f"Wrote {given.out}")


if __name__ == "__main__":
    main()
