"""What of a plan's mini-batch the process of a loop runs."""

from dataclasses import dataclass, replace

import numpy as np
import torch.distributed as dist

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.waves import running_microbatches


@dataclass(frozen=True, eq=False)
class OwnPart:
    """Micro-batches of one process.

    Attributes:
        workload: with these alone.
        microbatches: which of the mini-batch's they are.
        samples_of_all: of every micro-batch of the mini-batch, int.
        num_ranks: processes that run it together.
    """

    workload: Workload
    microbatches: slice
    samples_of_all: np.ndarray
    num_ranks: int

    @property
    def is_distributed(self) -> bool:
        """Whether others run others."""
        return self.num_ranks > 1

    def loss_weight(self, schedule: np.ndarray) -> float:
        """What a mean loss here is multiplied by, so that the mean of the ranks' gradients is that
        of all samples that run; the schedule is of all, int ``[num_subnets, num_microbatches]``."""
        if not self.is_distributed:
            return 1.0
        runs_here = (schedule[:, self.microbatches] != Operation.SHORTCUT).any(axis=0)
        of_all = self.samples_of_all[running_microbatches(schedule)].sum()
        return float(self.workload.samples[runs_here].sum() / of_all) * self.num_ranks


def own_part(plan: Plan) -> OwnPart:
    """The part of this process: everything, or where `torch.distributed` has several ranks that of
    its replica.

    Raises:
        InputError: a replica is cut over devices and there are several ranks, or the replicas are
            not as many as these.
    """
    workload = plan.workload
    num_ranks = dist.get_world_size() if dist.is_initialized() else 1
    if num_ranks == 1:
        return OwnPart(workload, slice(None), workload.samples, num_ranks)
    cut = [part for part in plan.replicas if len(part.devices) > 1]
    if cut:
        raise InputError(
            f"the plan cuts a replica over {counted(len(cut[0].devices), 'device')}, which "
            f"`d2ft finetune` "
            f"runs; a loop of one's own runs plans of one device a replica (--way data-parallel)"
        )
    if len(plan.replicas) != num_ranks:
        raise InputError(
            f"the plan has {counted(len(plan.replicas), 'replica')} and this job "
            f"{counted(num_ranks, 'rank')}; each rank runs one"
        )
    own = plan.parts[dist.get_rank()]
    return OwnPart(own.workload, own.microbatches, workload.samples, num_ranks)


def first_samples(
    workload: Workload, schedule: np.ndarray, num_samples: int
) -> tuple[Workload, np.ndarray]:
    """The first samples of a mini-batch and their operations; all FULL where none would run.

    Raises:
        InputError: the mini-batch has fewer.
    """
    of_all = int(workload.samples.sum())
    if num_samples > of_all:
        raise InputError(
            f"the batch has {counted(num_samples, 'sample')}; the plan is for {of_all}"
        )
    if num_samples == of_all:
        return workload, schedule
    before = np.cumsum([0, *workload.microbatch_samples])
    kept = np.clip(num_samples - before[:-1], 0, workload.samples)
    kept = kept[kept > 0]
    schedule = schedule[:, : len(kept)]
    if (schedule == Operation.SHORTCUT).all():
        schedule = np.full_like(schedule, Operation.FULL)
    return replace(workload, microbatch_samples=tuple(map(int, kept))), schedule
