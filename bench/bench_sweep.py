"""Seconds of a sweep of 1,000 points on a cluster of 16 unequal devices, in two processes.

``python -m bench sweep``; the points are budgets of three resources, solvers and bandwidths, of
ViT-S at 224 pixels on a tree, every device used.
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from joblib.externals.loky import get_reusable_executor

from analysis import Axes, Common, PlacementName, Sweep, grid_points
from d2ft_sched import Cluster, Device, Scores, load_model_shape, save_scores
from d2ft_sched.cluster import topology
from d2ft_sched.cluster.topology import Cable

SEED, NUM_DEVICES, NUM_MICROBATCHES, NUM_JOBS = 0, 16, 8, 2
TARGET_S = 120.0


def _cluster() -> Cluster:
    rates = np.random.default_rng(SEED).uniform(0.5, 5.0, NUM_DEVICES) * 1e12
    devices = tuple(
        Device(f"d{i}", rate, 16 * 10**9, rate / 10, launch_s=1e-5)
        for i, rate in enumerate(rates.tolist())
    )
    network = topology.tree([d.name for d in devices], 4, Cable(1.25e9, 5e-5), 2.0)
    return Cluster("tree of 16", devices, network.links, network.switches, network.topology)


def _computing_s() -> float:
    """CPU seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    shape = load_model_shape("vit_small_patch16_224", image_size=224, num_classes=10)
    axes = Axes(
        clusters=[_cluster()],
        bandwidth_scales=[0.1, 1.0, 10.0, 100.0],
        compute_scales=[1.0],
        heads_per_subnet=["1"],
        num_microbatches=[NUM_MICROBATCHES],
        compute=[0.2, 0.4, 0.6, 0.8, 1.0],
        communication=[0.2, 0.4, 0.6, 0.8, 1.0],
        memory=[0.25, 0.5, 0.75, 0.9, 1.0],
        solvers=["dp", "two_stage"],
    )
    rng = np.random.default_rng(SEED)
    size = (shape.num_blocks * shape.num_heads, NUM_MICROBATCHES)
    scores = Scores(rng.lognormal(size=size), rng.lognormal(size=size))
    with tempfile.TemporaryDirectory() as folder:
        save_scores(scores, Path(folder) / "scores.csv")
        common = Common(shape, 64, Path(folder) / "scores.csv", placement=PlacementName.ROUND_ROBIN)
        started = time.perf_counter()
        sweep = Sweep(grid_points(axes, common), Path(folder))
        sweep.run(jobs=NUM_JOBS)
        get_reusable_executor().shutdown(wait=True)
        table, _ = sweep.save()
        seconds = time.perf_counter() - started
    verdict = "ok" if seconds < TARGET_S else "MISSED"
    solved = int(table["predicted_step_s"].notna().sum())
    print(
        f"{len(table):,} points ({solved:,} with a plan) on {NUM_DEVICES} devices, {NUM_JOBS} "
        f"processes: {seconds:.1f} s, {_computing_s():.1f} CPU seconds of all processes (target "
        f"below {TARGET_S:g} s) {verdict}"
    )


if __name__ == "__main__":
    main()
