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

from analysis import (
    Pair,
    percent,
    predicted_against_measured,
    quantity,
    rank_correlation,
    save_both,
    worst_error,
)
from d2ft_sched import (
    Budget,
    Cluster,
    Operation,
    Scores,
    Workload,
    deploy,
    make_plan,
    partition_by_heads,
    provenance,
)
from runtime import (
    build_model,
    device_name,
    measure_steps,
    profile_device,
    select_device,
    shape_of,
    steady_process,
)
from sim import simulate_step

BUDGETS = (0.8, 0.6, 0.4, 0.2)
QUANTITIES = (
    ("FLOPs", "flops", "FLOP"),
    ("Step time", "step_s", "s"),
    ("Peak memory", "peak_memory_bytes", "B"),
)
"""Title, attribute of `Prediction` and `StepMeasurement`, unit."""


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

    deployment = deploy(workload, cluster)
    size = (workload.num_subnets, workload.num_microbatches)
    rng = np.random.default_rng(given.seed)
    scores = Scores(rng.lognormal(size=size), rng.lognormal(size=size))
    schedules = {"dense": deployment.uniform(Operation.FULL)}
    for budget in BUDGETS:
        plan = make_plan(deployment, scores, Budget(compute=budget))
        schedules[f"compute {100 * budget:.0f} %"] = plan.schedule

    predicted = {name: simulate_step(deployment, schedule) for name, schedule in schedules.items()}
    measured = measure_steps(model, workload, schedules, device, num_repeats=given.repeats)

    print(f"One step of {shape.name} on {device_name(device)}: predicted, measured, error")
    panels = []
    for title, name, unit in QUANTITIES:
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
    (given.out / "validation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"Wrote {given.out}")


if __name__ == "__main__":
    main()
