"""What a step has to do: how many samples, and which blocks train on them."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from sim.dense.memory_passes import whole


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
            raise InputError(
                f"a step has {counted(self.num_samples, 'sample')}; it needs at least 1"
            )

    @property
    def num_trained(self) -> int:
        return sum(self.trains)

    @property
    def first_trained(self) -> int:
        """The first block that trains; the number of blocks where none does."""
        return self.trains.index(True) if any(self.trains) else len(self.trains)

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
        forward: of every block, float ``[num_blocks]``.
        rest: of every block where it rests.
        full: where it trains.
        has_adapters: whether only these train; then nothing goes backward before the first block
            that trains.
    """

    forward: np.ndarray
    rest: np.ndarray
    full: np.ndarray
    has_adapters: bool

    def subnets(self, load: Load) -> float:
        """Of all blocks, for every sample of a load."""
        of_block = np.where(load.trains, self.full, self.rest)
        if self.has_adapters:
            first = load.first_trained
            of_block[:first] = self.forward[:first]
        return load.num_samples * float(of_block.sum())


def sample_flops(workload: Workload) -> SampleFlops:
    """FLOPs by block and operation, as `operation_flops` has them."""
    flops = operation_flops(whole(workload, (1,)))[:, 0]
    return SampleFlops(
        forward=flops[:, Operation.FORWARD_ONLY],
        rest=flops[:, Operation.REST],
        full=flops[:, Operation.FULL],
        has_adapters=workload.lora is not None,
    )


def most_samples(workload: Workload, trains: tuple[bool, ...], compute: float) -> int:
    """The most samples whose subnets need at most a fraction of the dense step's FLOPs; at least 1,
    and never more than there are."""
    flops, total = sample_flops(workload), int(workload.samples.sum())
    one = flops.subnets(Load(1, trains))
    dense = flops.subnets(dense_load(workload))
    return max(1, min(total, int(compute * dense / one * (1 + 1e-12))))
