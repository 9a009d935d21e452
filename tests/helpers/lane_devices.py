"""Devices on which lane groups are merged: never, where that pays, always."""

from d2ft_sched.cluster.device import Device

LAUNCH_BOUND = Device("launch-bound", 1e15, 2**50, 1e15, launch_s=1.0)
"""Every group costs more than all that could be computed in it."""

MERGING_DEVICES = (
    None,
    Device("slow", 1e9, 2**50, 1e8, launch_s=1e-5),
    Device("middling", 1e9, 2**50, 1e10, launch_s=1e-4),
    Device("quick", 1e10, 2**50, 1e10, launch_s=1e-4),
    LAUNCH_BOUND,
)
"""Of small models, from no merging to one group a block."""
