"""Which change of the setting would make a plan pay, where none does."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from analysis.names.precision_names import PrecisionName
from analysis.names.way_names import WayName
from analysis.planning.request import Request
from analysis.planning.way_request import plan_on_way
from analysis.planning.way_words import pays
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.workload import ELEMENT_BYTES, Workload
from sim.questions.what_if import scale_bandwidth

LORA_RANK = 8
MANY = 4
"""Times as many samples, or a part of them."""
LINKS = 10
"""Times as fast links, or as slow ones."""
MOST_DEVICES, MOST_TRIED_SAMPLES = 8, 2_048
"""Devices, and samples of a mini-batch, up to which changes are tried: each takes a search."""


def is_quickly_searched(cluster: Cluster, workload: Workload) -> bool:
    """Whether changes of a setting are tried there."""
    is_small = sum(workload.microbatch_samples) <= MOST_TRIED_SAMPLES
    return is_small and len(cluster.devices) <= MOST_DEVICES


def change_that_pays(
    request: Request,
    way: WayName | None,
    cluster_of: Callable[[PrecisionName], Cluster],
    *,
    target_step_time: str | None = None,
    seed: int = 0,
) -> str | None:
    """The first of a few changes with which a plan of the same request beats the best dense way and
    fewer samples, in words that follow "a plan would pay"; None for none of them.

    Args:
        request: of the plan that does not pay.
        way: as for `plan_on_way`.
        cluster_of: the cluster for a precision.
        target_step_time: as for `plan_on_way`; seconds, which another setting may not reach, are
            left out.
        seed: of the plan.
    """
    if not is_quickly_searched(request.cluster, request.workload):
        return None
    if target_step_time is not None and not target_step_time.endswith("x"):
        return None
    for said, changed in _changes(request, cluster_of):
        try:
            planned = plan_on_way(changed, way, target_step_time=target_step_time, seed=seed)
        except InputError:
            continue
        if pays(planned):
            return said
    return None


def _changes(
    request: Request, cluster_of: Callable[[PrecisionName], Cluster]
) -> Iterator[tuple[str, Request]]:
    workload = request.workload
    if workload.lora is None:
        adapted = replace(workload, lora=Lora(LORA_RANK, float(LORA_RANK)))
        yield f"with adapters (--lora-rank {LORA_RANK})", replace(request, workload=adapted)
    half = ELEMENT_BYTES[PrecisionName.BFLOAT16]
    if workload.element_bytes > half:
        yield (
            "in mixed precision (--precision bfloat16)",
            replace(
                request,
                workload=replace(workload, element_bytes=half),
                cluster=cluster_of(PrecisionName.BFLOAT16),
            ),
        )
    samples = workload.microbatch_samples
    more = tuple(MANY * n for n in samples)
    yield (
        f"with {sum(more):,} samples in a mini-batch",
        replace(request, workload=replace(workload, microbatch_samples=more)),
    )
    if min(samples) >= MANY:
        fewer = tuple(n // MANY for n in samples)
        yield (
            f"with {sum(fewer):,} samples in a mini-batch",
            replace(request, workload=replace(workload, microbatch_samples=fewer)),
        )
    if request.cluster.links:
        for factor, said in ((LINKS, "fast"), (1 / LINKS, "slow")):
            yield (
                f"with links {LINKS} times as {said}",
                replace(request, cluster=scale_bandwidth(request.cluster, factor)),
            )
