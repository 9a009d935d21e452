"""A way to run a model: its replicas, and what a dense step takes on it."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from d2ft_sched.deployment import Deployment
from d2ft_sched.schedule.replica import first_microbatches


class WayKind(StrEnum):
    """What a way is called."""

    ONE_DEVICE = "one device"
    DATA_PARALLEL = "data parallel"
    CUT = "cut"
    HYBRID = "hybrid"


@dataclass(frozen=True, eq=False)
class Way(Deployment):
    """A deployment whose replicas are dealt samples of their own.

    Attributes:
        name: of its kind.
        dense_step_s: predicted seconds of a step with every operation FULL.
        fits: whether that step fits every device's memory.
        peak_memory_bytes: of that step, float ``[num_devices]``.
    """

    name: WayKind
    dense_step_s: float
    fits: bool
    peak_memory_bytes: np.ndarray

    @property
    def samples(self) -> tuple[int, ...]:
        """Samples of each replica."""
        bounds = first_microbatches(self.replicas).tolist()
        samples = self.workload.microbatch_samples
        return tuple(sum(samples[a:b]) for a, b in pairwise(bounds))

    @property
    def device_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of each replica's devices."""
        return tuple(
            tuple(self.cluster.devices[d].name for d in replica.devices)
            for replica in self.replicas
        )

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each replica's devices."""
        return tuple(replica.devices for replica in self.replicas)


def kind_of(groups: tuple[tuple[int, ...], ...]) -> WayKind:
    """The kind of a way with replicas on such devices."""
    if len(groups) == 1:
        return WayKind.ONE_DEVICE if len(groups[0]) == 1 else WayKind.CUT
    alone = all(len(group) == 1 for group in groups)
    return WayKind.DATA_PARALLEL if alone else WayKind.HYBRID
