"""What a step has to do: how many samples, and which blocks train on them."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.flops import operation_flops, trunk_flops
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from sim.dense.passes import whole


@dataclass(frozen=True)
class Load:
    """Samples of a step and the blocks that train; all others rest.

    Attributes:
        num_samples: that run, at least 1.
        trains: for every block, whether it trains.
    """

    num_samples: int
    trains: tuple[bool, ...]

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise InputError(f"a step has {self.num_samples} samples; it needs at least 1")

    @property
    def num_trained(self) -> int:
        return sum(self.trains)

    @property
    def is_dense(self) -> bool:
        return all(self.trains)


def dense_load(workload: Workload, num_samples: int | None = None) -> Load:
    """Everything trains, on so many samples; default all of the mini-batch."""
    number = int(workload.samples.sum()) if num_samples is None else num_samples
    return Load(number, (True,) * workload.shape.num_blocks)


@dataclass(frozen=True)
class SampleFlops:
    """FLOPs of one sample through the whole model.

    Attributes:
        rest: of every block where it rests, float ``[num_blocks]``.
        full: where it trains.
        trunk: of embedding and classifier.
    """

    rest: np.ndarray
    full: np.ndarray
    trunk: float

    def subnets(self, load: Load) -> float:
        """Of all blocks, for every sample of a load."""
        return load.num_samples * float(np.where(load.trains, self.full, self.rest).sum())


def sample_flops(workload: Workload) -> SampleFlops:
    """FLOPs by block and operation, as `operation_flops` has them."""
    one = whole(workload, (1,))
    flops, trunk = operation_flops(one)[:, 0], trunk_flops(one)
    return SampleFlops(
        rest=flops[:, Operation.REST],
        full=flops[:, Operation.FULL],
        trunk=float(trunk.forward[0] + trunk.backward[0]),
    )


def most_samples(workload: Workload, trains: tuple[bool, ...], compute: float) -> int:
    """The most samples whose subnets need at most a fraction of the dense step's FLOPs; at least 1,
    and never more than there are."""
    flops, total = sample_flops(workload), int(workload.samples.sum())
    one = flops.subnets(Load(1, trains))
    dense = flops.subnets(dense_load(workload))
    return max(1, min(total, int(compute * dense / one * (1 + 1e-12))))
