"""Tensor parallelism on the same cluster: one of the dense steps that savings are held against.

It is bulk-synchronous. On each device a step is that of one device alone with its part of the
model; only the all-reduces in between are added. Heads go to devices one after another, each to the
one that would end first: by its speed alone on the whole mini-batch, or, where they are to be split
evenly, as if all were equally fast.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.memory import DeviceMemory
from d2ft_sched.costs.parameters import trained_shared_parameters
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.recomputing import recomputing_where_needed
from sim.dense.device_alone import device_alone
from sim.network.collectives import Algorithm, AllReduce, all_reduce
from sim.network.exchange_time import ExchangeTimes
from sim.prediction import Phase, Prediction
from sim.step import simulate_dense
from sim.timetable import UPDATE, timetable

Split = Literal["speed", "even"]


def tensor_parallel_step(
    workload: Workload, cluster: Cluster, algorithm: Algorithm = "ring", split: Split = "speed"
) -> Prediction:
    """Heads and hidden units of every block split over the devices (Megatron-LM, arXiv 1909.08053).

    All micro-batches run on all devices at once, the trunk on each of them. After each sub-layer
    the devices all-reduce its output forward, and the gradient of its input backward: four
    all-reduces of the mini-batch's activations per block; at the end one of the gradients of
    adapters' shared factors, which each device has of its heads alone. Hidden units follow the
    heads in proportion; a device without a head takes no part.

    Args:
        workload: model and mini-batch; the partition is not looked at.
        cluster: devices and links.
        algorithm: of the all-reduces.
        split: whether heads follow the devices' speed.

    Raises:
        InputError: blocks have fewer hidden units than heads.
    """
    shape, num_devices = workload.shape, len(cluster.devices)
    if shape.mlp_hidden < shape.num_heads:
        raise InputError(
            f"{shape.name}: mlp_hidden is {shape.mlp_hidden}; tensor parallelism needs a hidden "
            f"unit for each of the {counted(shape.num_heads, 'head')}"
        )
    num_heads = tensor_parallel_heads(workload, cluster, split)
    members = np.flatnonzero(num_heads).tolist()
    bounds = np.cumsum(num_heads[members]) * shape.mlp_hidden // shape.num_heads
    alone = []
    for member, hidden in zip(members, np.diff(bounds, prepend=0).tolist(), strict=True):
        heads = int(num_heads[member])
        thin = replace(shape, num_heads=heads, mlp_hidden=hidden)
        part = replace(workload, shape=thin, partition=partition_by_heads(thin, heads))
        alone.append(dense_step_alone(part, cluster.devices[member]))

    times = ExchangeTimes(cluster)
    reduced = all_reduce(times, members, float(workload.activation_bytes.sum()), algorithm)
    factor_bytes = shape.num_blocks * trained_shared_parameters(workload) * workload.parameter_bytes
    factors = all_reduce(times, members, factor_bytes, algorithm)
    phases = []
    for same in zip(*(a.phases for a in alone), strict=True):
        together = _together(same, members, num_devices)
        if together.name == "optimizer" and factor_bytes:
            phases.append(_moving(Phase(0, UPDATE, -1, "adapter all-reduce", 0.0, 0.0), factors))
        phases.append(together)
        if together.name.endswith("lanes"):
            name = together.name.replace("lanes", "all-reduce")
            phases.append(_moving(replace(together, name=name, device_s=None), reduced))
    return Prediction(
        cluster=cluster,
        phases=timetable(cluster, phases, overlap=False),
        flops=sum(a.flops for a in alone),
        memory=_memory(alone, members, np.maximum(reduced.buffer_bytes, factors.buffer_bytes)),
    )


def tensor_parallel_heads(
    workload: Workload, cluster: Cluster, split: Split = "speed"
) -> np.ndarray:
    """Heads of every block on each device of `tensor_parallel_step`, int ``[num_devices]``."""
    device_of_head = _deal(np.ones(workload.shape.num_heads), _speeds(workload, cluster, split))
    return np.bincount(device_of_head, minlength=len(cluster.devices))


def dense_step_alone(workload: Workload, device: Device) -> Prediction:
    """The dense step on one device, of a model or of the part of it that the workload has; forward
    is computed again in backward where its memory asks for that."""
    alone = deploy(workload, Cluster(device.name, (device,)))
    return simulate_dense(recomputing_where_needed(alone))


def _speeds(workload: Workload, cluster: Cluster, split: str) -> np.ndarray:
    """How fast each device goes on with a dense step, float ``[num_devices]``."""
    if split == "even":
        return np.ones(len(cluster.devices))
    if split != "speed":
        raise InputError(f"split is {split!r}; it must be 'speed' or 'even'")
    return 1 / np.array([device_alone(workload, device).step_s for device in cluster.devices])


def _deal(size: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Device of each part, the largest first where it ends first (Graham, 1969)."""
    load, device = np.zeros(len(speed)), np.zeros(len(size), dtype=np.int64)
    for part in np.argsort(-size, kind="stable"):
        device[part] = np.argmin((load + size[part]) / speed)
        load[device[part]] += size[part]
    return device


def _together(same: Sequence[Phase], members: Sequence[int], num_devices: int) -> Phase:
    """One phase of all members from that of each alone."""
    device_s = np.zeros(num_devices)
    device_s[members] = [p.duration_s for p in same]
    return replace(same[0], duration_s=float(device_s.max()), device_s=device_s)


def _moving(phase: Phase, reduced: AllReduce) -> Phase:
    return replace(phase, duration_s=reduced.seconds, pair_bytes=reduced.pair_bytes)


def _memory(
    alone: Sequence[Prediction], members: Sequence[int], buffer_bytes: np.ndarray
) -> DeviceMemory:
    """Memory of each alone, and the messages of an all-reduce on their way."""
    by_purpose = {name: np.zeros(len(buffer_bytes)) for name in vars(alone[0].memory)}
    for name, on_device in by_purpose.items():
        on_device[members] = [getattr(a.memory, name)[0] for a in alone]
    by_purpose["exchange_buffers"] = buffer_bytes
    by_purpose["total"] = by_purpose["total"] + buffer_bytes
    return DeviceMemory(**by_purpose)
