"""Whole micro-batches left out of a step: neither subnets nor trunk run on them, nor their loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica, first_microbatches
from d2ft_sched.schedule.schedule import schedule_to_rows


@dataclass(frozen=True)
class Running:
    """What of a mini-batch runs under a schedule.

    Attributes:
        workload: with the micro-batches that run alone.
        replicas: with these alone; waves are as many as there can be of those before.
        schedule: of these, int8 ``[num_subnets, num_running]``.
        microbatches: which of all they are, int ``[num_running]``, rising.
        samples: which of the mini-batch's samples are in them, int ``[num_samples]``, rising.
    """

    workload: Workload
    replicas: tuple[Replica, ...]
    schedule: np.ndarray
    microbatches: np.ndarray
    samples: np.ndarray


def running(workload: Workload, replicas: Sequence[Replica], schedule: np.ndarray) -> Running:
    """Leave out the micro-batches that pass no subnet at all; the loss is the mean over the others.

    A model would be trained on noise there. Of a replica that has no others all are kept: it would
    have nothing to do, and a plan for that is refused where it is made.

    Args:
        workload: model, partition and mini-batch.
        replicas: that deal it out.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    runs = (schedule != Operation.SHORTCUT).any(axis=0)
    bounds = first_microbatches(replicas)
    for first, stop in pairwise(bounds):
        runs[first:stop] |= not runs[first:stop].any()
    kept = np.flatnonzero(runs)
    parts = []
    for replica, first, stop in zip(replicas, bounds[:-1], bounds[1:], strict=True):
        own = kept[(kept >= first) & (kept < stop)] - first
        fewer, placement = without_microbatches(workload, replica.placement, own)
        parts.append(Replica(placement, min(replica.num_waves, fewer.num_microbatches)))
    left = replace(workload, microbatch_samples=tuple(workload.samples[kept].tolist()))
    in_running = np.repeat(runs, workload.samples)
    return Running(left, tuple(parts), schedule[:, kept], kept, np.flatnonzero(in_running))


def running_plan(plan: Plan) -> Plan:
    """The plan of what runs alone."""
    run = running(plan.workload, plan.replicas, plan.schedule)
    return replace(
        plan,
        workload=run.workload,
        replicas=run.replicas,
        schedule_rows=tuple(schedule_to_rows(run.schedule)),
    )


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
