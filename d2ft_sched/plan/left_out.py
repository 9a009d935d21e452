"""Whole micro-batches left out of a step: neither subnets nor trunk run on them."""

from dataclasses import replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


def without_microbatches(
    workload: Workload, placement: Placement, kept: np.ndarray
) -> tuple[Workload, Placement]:
    """The same mini-batch and placement with only the micro-batches of these indices.

    Args:
        workload: model, partition and mini-batch.
        placement: device of every subnet, owner of every micro-batch.
        kept: int ``[num_kept]``, at least one.
    """
    return (
        replace(workload, microbatch_samples=tuple(workload.microbatch_samples[i] for i in kept)),
        replace(placement, owner=tuple(placement.owner[i] for i in kept)),
    )
