"""A step's waves as steps of their own, so that each costs what it has and not what all have."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.waves import schedule_waves


@dataclass(frozen=True, eq=False)
class WavePart:
    """What one wave of a replica does.

    Attributes:
        workload: the model with the wave's micro-batches alone, those that run.
        placement: device of every subnet, owner of each of these micro-batches.
        schedule: of these micro-batches, int8 ``[num_subnets, num_microbatches of the wave]``.
    """

    workload: Workload
    placement: Placement
    schedule: np.ndarray

    @property
    def microbatches(self) -> np.ndarray:
        """Indices of all of them in this part, int ``[num_microbatches of the wave]``."""
        return np.arange(self.workload.num_microbatches)


def wave_parts(workload: Workload, replica: Replica, schedule: np.ndarray) -> list[WavePart]:
    """The waves of which something runs, in order; waves that are alike are the same object.

    Args:
        workload: model, partition and the replica's micro-batches.
        replica: device of every subnet, owner of every micro-batch, and waves of them.
        schedule: int ``[num_subnets, num_microbatches]``.
    """
    return list(_parts(workload, replica, schedule))


def _parts(workload: Workload, replica: Replica, schedule: np.ndarray) -> Iterator[WavePart]:
    placement = replica.placement
    samples, owner = workload.samples, np.array(placement.owner)
    known: dict[tuple[bytes, bytes, bytes], WavePart] = {}
    for wave in schedule_waves(schedule, replica.num_waves):
        if len(wave) == workload.num_microbatches:
            yield WavePart(workload, placement, schedule)
            continue
        own = schedule[:, wave]
        key = samples[wave].tobytes(), owner[wave].tobytes(), own.tobytes()
        if key not in known:
            known[key] = WavePart(
                replace(workload, microbatch_samples=tuple(samples[wave].tolist())),
                replace(placement, owner=tuple(owner[wave].tolist())),
                own,
            )
        yield known[key]
