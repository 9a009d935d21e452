"""Placement: the fast search beside the same problem as a MIP, and over cluster sizes."""

import time

import numpy as np

from analysis.console.output import percent, print_table, seconds
from bench.placement.place_mip import place_mip
from bench.star_clusters import star, study_clusters
from d2ft_sched import (
    Cluster,
    InputError,
    Workload,
    load_model_shape,
    partition_by_heads,
    place_balanced,
)

TIME_LIMIT_S = 20.0
SIZES = (4, 16, 64, 256)


def main() -> None:
    beside_mip()
    over_sizes()


def beside_mip() -> None:
    shape = load_model_shape("vit_small_patch14_dinov2", image_size=224, num_classes=10)
    work = Workload(shape, partition_by_heads(shape, 1), (16,) * 5)
    rows = []
    for cluster in study_clusters():
        fast = place_balanced(work, cluster)
        row = [cluster.name, seconds(fast.dense_step_s), percent(fast.gap), seconds(fast.solve_s)]
        try:
            exact = place_mip(work, cluster, time_limit_s=TIME_LIMIT_S)
        except InputError as error:
            rows.append([*row, "-", "-", "-", str(error)[:40]])
            continue
        rows.append(
            [
                *row,
                seconds(exact.dense_step_s),
                percent(exact.gap),
                seconds(exact.solve_s),
                f"{exact.solve_s / fast.solve_s:.0f}x",
            ]
        )
    print_table(
        f"ViT-S/14 on six devices: dense step of the fast search and of HiGHS ({TIME_LIMIT_S:g} s)",
        ["cluster", "fast", "gap", "took", "MIP", "gap", "took", "MIP over fast"],
        rows,
    )


def over_sizes() -> None:
    shape = load_model_shape("vit_large_patch14_dinov2", image_size=224, num_classes=10)
    work = Workload(shape, partition_by_heads(shape, 1), (2,) * 16)
    rows = []
    for size in SIZES:
        cluster = random_star(size)
        begin = time.perf_counter()
        found = place_balanced(work, cluster)
        took_s = time.perf_counter() - begin
        rows.append(
            [
                str(size),
                str(found.num_active),
                seconds(found.dense_step_s),
                percent(found.gap),
                seconds(took_s),
            ]
        )
    print_table(
        "ViT-L/14 on random stars, speeds over 10 and links over 100",
        ["devices", "active", "dense step", "gap", "took, bound included"],
        rows,
    )


def random_star(size: int) -> Cluster:
    speed, link = np.random.default_rng(size).random((2, size))
    return star(f"{size} devices", (1e13 * 10**speed).tolist(), (1e9 * 100**link).tolist())


if __name__ == "__main__":
    main()
