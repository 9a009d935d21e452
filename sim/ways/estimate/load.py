"""What a step has to do: how many samples, and which subnets train on them."""

from dataclasses import dataclass, field, replace

import numpy as np

from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.costs.parameters import trained_subnet_parameters
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation


@dataclass(frozen=True)
class Load:
    """Samples of a step and the subnets that train; all others rest. Made by `load_of`.

    Attributes:
        num_samples: that run, at least 1.
        trains: for every subnet, whether it trains.
        trained_part: of every block's parameters that would train, 0 to 1.
    """

    num_samples: int
    trains: tuple[bool, ...]
    trained_part: tuple[float, ...] = field(compare=False)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise InputError(
                f"a step has {counted(self.num_samples, 'sample')}; it needs at least 1"
            )

    @property
    def first_trained(self) -> int:
        """The first block of which something trains; the number of blocks where nothing does."""
        parts = self.trained_part
        return next((b for b, part in enumerate(parts) if part), len(parts))

    @property
    def is_dense(self) -> bool:
        return all(self.trains)


def load_of(workload: Workload, num_samples: int, trains: np.ndarray) -> Load:
    """A load in which some subnets train.

    Args:
        workload: model and partition.
        num_samples: that run.
        trains: whether each subnet trains, bool ``[num_subnets]``.
    """
    block, values = workload.partition.block, trained_subnet_parameters(workload)
    part = np.bincount(block, values * trains) / np.bincount(block, values)
    return Load(num_samples, tuple(np.asarray(trains).tolist()), tuple(part.tolist()))


def dense_load(workload: Workload, num_samples: int | None = None) -> Load:
    """Everything trains, on so many samples; default all of the mini-batch."""
    number = int(workload.samples.sum()) if num_samples is None else num_samples
    return load_of(workload, number, np.ones(workload.num_subnets, dtype=bool))


@dataclass(frozen=True)
class SampleFlops:
    """FLOPs of one sample through the whole model, float ``[num_subnets]`` each.

    Attributes:
        forward: of every subnet.
        rest: where it rests.
        full: where it trains.
        block: of every subnet, int.
        has_adapters: whether only these train; then nothing goes backward before the first block
            that trains.
    """

    forward: np.ndarray
    rest: np.ndarray
    full: np.ndarray
    block: np.ndarray
    has_adapters: bool

    def subnets(self, load: Load) -> float:
        """Of all subnets, for every sample of a load."""
        of_subnet = np.where(load.trains, self.full, self.rest)
        if self.has_adapters:
            is_before = self.block < load.first_trained
            of_subnet[is_before] = self.forward[is_before]
        return load.num_samples * float(of_subnet.sum())


def sample_flops(workload: Workload) -> SampleFlops:
    """FLOPs by subnet and operation, as `operation_flops` has them."""
    flops = operation_flops(replace(workload, microbatch_samples=(1,)))[:, 0]
    return SampleFlops(
        forward=flops[:, Operation.FORWARD_ONLY],
        rest=flops[:, Operation.REST],
        full=flops[:, Operation.FULL],
        block=workload.partition.block,
        has_adapters=workload.lora is not None,
    )


def most_samples(workload: Workload, trains: np.ndarray, compute: float) -> int:
    """The most samples whose subnets need at most a fraction of the dense step's FLOPs; at least 1,
    and never more than there are.

    Args:
        workload: the mini-batch.
        trains: whether each subnet trains, bool ``[num_subnets]``.
        compute: the fraction.
    """
    flops, total = sample_flops(workload), int(workload.samples.sum())
    one = flops.subnets(load_of(workload, 1, trains))
    dense = flops.subnets(dense_load(workload))
    return max(1, min(total, int(compute * dense / one * (1 + 1e-12))))
