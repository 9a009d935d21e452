"""How many parameters subnets, blocks and devices have, and how many of them train."""

import numpy as np
from numpy.typing import ArrayLike

from d2ft_sched.costs.held import held_by_any, held_sum, on_owners
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


def subnet_parameters(workload: Workload) -> np.ndarray:
    """Parameters of every subnet, its part of adapters included, int ``[num_subnets]``."""
    shape, partition = workload.shape, workload.partition
    base = partition.heads * shape.head_parameters + partition.hidden * shape.hidden_unit_parameters
    return base if workload.lora is None else base + trained_subnet_parameters(workload)


def trained_subnet_parameters(workload: Workload) -> np.ndarray:
    """Those that train: all of them, or the part of adapters."""
    if workload.lora is None:
        return subnet_parameters(workload)
    shape, partition, lora = workload.shape, workload.partition, workload.lora
    return partition.heads * lora.head_parameters(shape) + partition.hidden * (
        lora.hidden_unit_parameters(shape)
    )


def shared_block_parameters(workload: Workload) -> int:
    """What every device with a subnet of a block holds besides: scales of queries' and keys' norms,
    factors of adapters."""
    lora = workload.lora
    factors = 0 if lora is None else lora.shared_parameters(workload.shape)
    return workload.shape.shared_parameters + factors


def trained_shared_parameters(workload: Workload) -> int:
    """Those of them that train: the factors of adapters where there are such."""
    if workload.lora is None:
        return shared_block_parameters(workload)
    return workload.lora.shared_parameters(workload.shape)


def trained_trunk_parameters(workload: Workload) -> int:
    """The trunk's parameters that train: all of them, or the classifier's, if that does."""
    shape = workload.shape
    if workload.lora is None:
        return shape.trunk_parameters
    return shape.classifier_parameters if workload.head_trains else 0


def trained_parameters(workload: Workload) -> int:
    """All parameters that train, each counted once."""
    in_blocks = int(trained_subnet_parameters(workload).sum())
    in_blocks += workload.shape.num_blocks * trained_shared_parameters(workload)
    return in_blocks + trained_trunk_parameters(workload)


def stored_bytes(workload: Workload, parameters: ArrayLike, trained: ArrayLike) -> np.ndarray:
    """Bytes of so many parameters of which so many train, arrays of one shape."""
    training = np.asarray(trained)
    frozen = np.asarray(parameters) - training
    return np.asarray(frozen * workload.frozen_bytes + training * workload.parameter_bytes)


def device_parameters(workload: Workload, placement: Placement) -> np.ndarray:
    """Parameters that every device holds, float ``[num_devices]``."""
    of_blocks = held_sum(workload, placement, subnet_parameters(workload))
    of_blocks += held_by_any(workload, placement) * shared_block_parameters(workload)
    return of_blocks.sum(axis=0) + on_owners(placement, workload.shape.trunk_parameters)


def trained_device_parameters(
    workload: Workload, placement: Placement, trains: np.ndarray | None = None
) -> np.ndarray:
    """Those of them that train, float ``[num_devices]``; in a step, where `trains` says which
    subnets do, bool ``[num_subnets]``."""
    every = np.ones(workload.num_subnets, dtype=bool)
    chosen = every if trains is None else trains
    parameters = trained_subnet_parameters(workload) * chosen
    of_blocks = held_sum(workload, placement, parameters)
    of_blocks += shared_factors_held(workload, placement, chosen)
    return of_blocks.sum(axis=0) + on_owners(placement, trained_trunk_parameters(workload))


def shared_factors_held(workload: Workload, placement: Placement, trains: np.ndarray) -> np.ndarray:
    """Parameters of shared factors that train in the step, ``[num_blocks, num_devices]``: those of
    blocks in which any subnet does."""
    block_trains = np.zeros((workload.shape.num_blocks, 1), dtype=bool)
    block_trains[workload.partition.block[trains]] = True
    shared = trained_shared_parameters(workload)
    return (held_by_any(workload, placement) & block_trains) * shared
