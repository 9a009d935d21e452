"""Which device of a plan's cluster each rank of a job is."""

from collections.abc import Sequence
from dataclasses import replace

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica


def rank_devices(plan: Plan, num_ranks: int) -> tuple[int, ...]:
    """Device of each rank: every one of the cluster, or in order those that the plan uses.

    Raises:
        InputError: the job has another number of ranks.
    """
    all_devices = tuple(range(len(plan.cluster.devices)))
    for devices in (all_devices, plan.devices):
        if len(devices) == num_ranks:
            return devices
    used = ""
    if len(plan.devices) < len(all_devices):
        used = f" and uses {len(plan.devices)} of them"
    numbers = sorted({len(all_devices), len(plan.devices), 1} - {1})
    raise InputError(
        f"the plan is for {counted(len(all_devices), 'device')}{used}; this job has "
        f"{counted(num_ranks, 'rank')}: start "
        f"{', '.join(f'{n} with torchrun' for n in numbers)}, or one"
    )


def on_ranks(replicas: Sequence[Replica], devices: Sequence[int]) -> tuple[Replica, ...]:
    """The same replicas with ranks for devices; `devices` are those of the ranks."""
    rank_of = {device: rank for rank, device in enumerate(devices)}
    return tuple(
        replace(replica, placement=_renamed(replica.placement, rank_of)) for replica in replicas
    )


def _renamed(placement: Placement, rank_of: dict[int, int]) -> Placement:
    return Placement(
        len(rank_of),
        tuple(rank_of[device] for device in placement.subnet_device),
        tuple(rank_of[device] for device in placement.owner),
        tuple(sorted(rank_of[device] for device in placement.recomputing)),
    )
