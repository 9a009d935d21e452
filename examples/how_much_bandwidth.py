"""How much bandwidth is enough: step time of plans on one cluster with slower and faster links.

    python examples/how_much_bandwidth.py --out out/examples/bandwidth

Sweeps factors on the bandwidth of all links and two budgets, with every device used, and names the
least bandwidth at which devices wait for messages during less than a tenth of the step. All times
are predictions from the cluster file.
"""

import argparse
from pathlib import Path

from analysis import (
    Axes,
    Common,
    PlacementName,
    Sweep,
    grid_points,
    percent,
    quantity,
    save_sweep_plots,
)
from d2ft_sched import load_cluster, load_model_shape

CLUSTERS = Path(__file__).parent / "clusters"
ENOUGH = 0.1
"""Share of the step that may be waiting for messages."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", type=Path, default=CLUSTERS / "unequal_cpus.yaml")
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/examples/how_much_bandwidth"))
    given = parser.parse_args(arguments)

    axes = Axes(
        clusters=[load_cluster(given.cluster)],
        bandwidth_scales=[0.1, 0.3, 1.0, 3.0, 10.0],
        compute_scales=[1.0],
        heads_per_subnet=["1"],
        num_microbatches=[5],
        compute=[0.4, 0.6, 0.8, 1.0],
        communication=[0.5, 1.0],
        memory=[1.0],
        solvers=["dp"],
    )
    shape = load_model_shape(given.model, image_size=given.image_size, num_classes=10)
    common = Common(shape, minibatch_samples=80, placement=PlacementName.EVERY_DEVICE)
    sweep = Sweep(grid_points(axes, common), given.out)
    sweep.run(jobs=given.jobs)
    table, _ = sweep.save()
    save_sweep_plots(table, given.out)

    budget = table.query("budget_compute_fraction == 0.6 and budget_communication_fraction == 0.5")
    waiting = budget["predicted_exchange_wait_s"] / budget["predicted_step_s"]
    print("60 % of the compute, 50 % of the bytes:")
    for row, share in zip(budget.to_dict("records"), waiting, strict=True):
        print(
            f"  narrowest link {quantity(row['narrowest_link_bytes_per_s'], 'B/s'):>10}: step "
            f"{quantity(row['predicted_step_s'], 's'):>8}, waiting for messages {percent(share)}, "
            f"score kept {percent(row['retained_score_fraction'])}"
        )
    enough = budget[waiting < ENOUGH]
    if enough.empty:
        print("None of these bandwidths is enough to hide messages.")
    else:
        rate = enough["narrowest_link_bytes_per_s"].min()
        print(f"Enough: a narrowest link of {quantity(rate, 'B/s')}.")
    print(f"Wrote {given.out}")


if __name__ == "__main__":
    main()
