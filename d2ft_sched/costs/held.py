"""Sums over what every device holds of each block, and of each micro-batch."""

import numpy as np

from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement


def held_by_any(
    workload: Workload, placement: Placement, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Whether devices hold any subnet of each block, or any of those chosen, bool
    ``[num_blocks, num_devices]``."""
    held = np.zeros((workload.shape.num_blocks, placement.num_devices), dtype=bool)
    device = np.array(placement.subnet_device)
    these = slice(None) if chosen is None else chosen
    held[workload.partition.block[these], device[these]] = True
    return held


def any_held(
    num_blocks: int, block: np.ndarray, device: np.ndarray, num_devices: int, chosen: np.ndarray
) -> np.ndarray:
    """Of what is chosen of subnets on micro-batches, whether any on a device and in a block is.

    Args:
        num_blocks: of the model.
        block, device: of each subnet, int ``[num_subnets]``.
        num_devices: of the cluster.
        chosen: bool ``[..., num_subnets, num_microbatches]``.

    Returns:
        bool ``[..., num_blocks, num_devices, num_microbatches]``.
    """
    site = block * num_devices + device
    order = np.argsort(site, kind="stable")
    sites, first = np.unique(site[order], return_index=True)
    *others, _, num_microbatches = chosen.shape
    held = np.zeros((*others, num_blocks * num_devices, num_microbatches), dtype=bool)
    of_subnets = chosen[..., order, :]
    if len(first) < len(order):
        of_subnets = np.logical_or.reduceat(of_subnets, first, axis=-2)
    held[..., sites, :] = of_subnets
    return held.reshape(*others, num_blocks, num_devices, num_microbatches)


def held_sum(workload: Workload, placement: Placement, of_subnet: np.ndarray) -> np.ndarray:
    """Sum of a number per subnet over those held, float ``[num_blocks, num_devices]``."""
    held = np.zeros((workload.shape.num_blocks, placement.num_devices))
    np.add.at(held, (workload.partition.block, np.array(placement.subnet_device)), of_subnet)
    return held


def on_owners(placement: Placement, amount: float) -> np.ndarray:
    """The amount on every owner, float ``[num_devices]``."""
    held = np.zeros(placement.num_devices)
    held[list(placement.owners)] = amount
    return held


def owned_sum(placement: Placement, microbatches: np.ndarray, of_each: np.ndarray) -> np.ndarray:
    """Sum of a value per micro-batch over those that each device owns, ``[num_devices]``."""
    return np.bincount(
        np.array(placement.owner)[microbatches],
        weights=of_each[microbatches],
        minlength=placement.num_devices,
    )
