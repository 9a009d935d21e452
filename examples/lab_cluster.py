"""Plan for a lab cluster whose machines differ: what to run where, and what that saves.

    python examples/lab_cluster.py --out out/examples/lab

For each way to place the model it plans at 60 % of the dense compute and 50 % of its bytes, and
simulates a step of the plan and of dense training. The plan with the shorter step is written, with
pictures of it. Give your own cluster with --cluster. All times are predictions from the cluster
file.
"""

import argparse
from pathlib import Path

from analysis import (
    PlacementName,
    cluster_topology,
    percent,
    plan_request,
    quantity,
    read_request,
    save_both,
    step_gantt,
    workload_per_device,
)
from d2ft_sched import Budget, Plan, save_plan
from sim import simulate_dense, simulate_plan

CLUSTERS = Path(__file__).parent / "clusters"


def plan_for(cluster: Path, model: str, image_size: int, placement: PlacementName) -> Plan:
    """A plan at 60 % compute and 50 % communication; every subnet counts alike."""
    request = read_request(
        model=model,
        image_size=image_size,
        num_classes=10,
        microbatches=5,
        microbatch_size=16,
        cluster_file=cluster,
        scores_file=None,
        budget=Budget(compute=0.6, communication=0.5),
    )
    return plan_request(request, placement).plan


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", type=Path, default=CLUSTERS / "unequal_cpus.yaml")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--out", type=Path, default=Path("out/examples/lab_cluster"))
    given = parser.parse_args(arguments)

    plans: dict[float, Plan] = {}
    for placement in (PlacementName.BALANCED, PlacementName.EVERY_DEVICE):
        plan = plan_for(given.cluster, given.model, given.image_size, placement)
        planned, dense = simulate_plan(plan), simulate_dense(plan)
        used = int((planned.device_busy_s > 0).sum())
        print(
            f"{placement:12} {used} of {len(plan.cluster.devices)} devices: dense step "
            f"{quantity(dense.step_s, 's')}, plan {quantity(planned.step_s, 's')} "
            f"({percent(planned.step_s / dense.step_s)}), waiting for messages during "
            f"{percent(planned.exchange_s / planned.step_s)} of it"
        )
        plans.setdefault(planned.step_s, plan)
    plan = plans[min(plans)]
    save_plan(plan, given.out / "plan.json")
    timelines = {"dense": simulate_dense(plan).timeline(), "plan": simulate_plan(plan).timeline()}
    figures = {
        "topology": cluster_topology(simulate_plan(plan)),
        "timeline": step_gantt(timelines),
        "workload": workload_per_device(timelines),
    }
    for name, figure in figures.items():
        save_both(figure, given.out, name)
    print(f"Wrote {given.out}; next: d2ft finetune {given.out / 'plan.json'}")


if __name__ == "__main__":
    main()
