"""Fewer samples: the dense step of a part of the mini-batch, in its own best way."""

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.deployment import Deployment
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from sim.ways.estimate.load import dense_load
from sim.ways.search import WaySearch, best_replicas, search_ways, shown, way_of
from sim.ways.way import Way

ROUNDING = 1e-9
"""Of FLOPs: what a whole number of samples may lack."""


def fewer_samples(
    workload: Workload, cluster: Cluster, fraction: float, *, search: WaySearch | None = None
) -> Way:
    """The least dense step of a fraction of the samples, over all ways that fit.

    Args:
        workload: model, partition and the whole mini-batch.
        cluster: devices and links.
        fraction: of the samples that run, above 0 and up to 1; whole samples, rounded down, at
            least one.
        search: of the same workload and cluster, if there is one already.

    Returns:
        A way whose workload has only the samples that run.

    Raises:
        InputError: the fraction is out of range, or memory does not suffice for any way.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"the fraction of samples is {fraction}; it must be above 0 and at most 1")
    known = search_ways(workload, cluster) if search is None else search
    return fewest(known, max(1, int(fraction * known.steps.num_samples * (1 + 1e-12))))


def fewest(search: WaySearch, num_samples: int) -> Way:
    """The least dense step of so many samples; errors as of `fewer_samples`."""
    steps = search.steps
    found = best_replicas(steps, dense_load(search.workload, num_samples), search.kinds)
    ways = [way_of(steps, one) for one in shown(steps, found)]
    fitting = [way for way in ways if way.fits]
    if not fitting:
        raise InputError(
            f"cluster {search.cluster.name!r}: no way was found in which "
            f"{counted(num_samples, 'sample')} of "
            f"{search.workload.shape.name} fit its memory; use more memory, LoRA or a smaller model"
        )
    return min(fitting, key=lambda way: way.dense_step_s)


def fewest_beside(search: WaySearch, num_samples: int, most: int | None = None) -> Way:
    """`fewest` of so many samples, or of one more, up to `most`, where that takes less time.

    Replicas may share one more evenly; whoever runs fewer samples would take that.
    """
    least = fewest(search, num_samples)
    if num_samples >= (search.steps.num_samples if most is None else most):
        return least
    try:
        more = fewest(search, num_samples + 1)
    except InputError:
        return least
    return more if more.dense_step_s < least.dense_step_s else least


def samples_of_compute(deployment: Deployment, schedule: np.ndarray) -> int:
    """How many samples the FLOPs of a step, trunk included, suffice for if all operations were FULL
    on the same replicas; at least 1.

    Args:
        deployment: with the micro-batches as dealt.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    spent, whole = (
        sum(
            step_flops(part.workload, part.schedule, part.placement)
            for part in deployment.parts_of(operations)
            if not part.is_idle
        )
        for operations in (schedule, np.full_like(schedule, Operation.FULL))
    )
    return samples_for(spent / whole, int(deployment.workload.samples.sum()))


def samples_for(fraction: float, total: int) -> int:
    """How many whole samples a fraction of the FLOPs of all of them suffices for; at least 1."""
    return max(1, int(fraction * total * (1 + ROUNDING)))
