"""One device that runs samples whole: the dense step as somebody with that device would run it."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import step_flops
from d2ft_sched.costs.memory import DeviceMemory
from d2ft_sched.costs.memory_traffic import optimizer_bytes_moved
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.memory_passes import (
    PassMemory,
    PassSeconds,
    on_one_device,
    pass_seconds,
    split_evenly,
    whole,
)


@dataclass(frozen=True)
class DeviceRun:
    """A device's dense step on some samples.

    Attributes:
        device: which.
        pass_samples: samples of its passes, one after another.
        passes: seconds of each of them.
        update_s: of the parameter update.
        flops: of the whole step.
        memory: peak bytes by purpose, float ``[1]`` each.
        fits: whether its memory holds that.
    """

    device: Device
    pass_samples: tuple[int, ...]
    passes: PassSeconds
    update_s: float
    flops: float
    memory: DeviceMemory
    fits: bool

    @property
    def num_passes(self) -> int:
        return len(self.pass_samples)

    @property
    def step_s(self) -> float:
        """Seconds of all passes and the update."""
        return float(self.passes.total_s.sum()) + self.update_s

    @property
    def peak_memory_bytes(self) -> float:
        return float(self.memory.total[0])


def device_alone(
    workload: Workload,
    device: Device,
    num_samples: int | None = None,
    *,
    reserved_bytes: float = 0.0,
    memory: PassMemory | None = None,
) -> DeviceRun:
    """The dense step of the whole model on one device, in the fewest passes that its memory holds.

    Passes are as equal as whole samples allow. Where not even one sample at a time fits, each is a
    pass of its own, and `DeviceRun.fits` is false.

    Args:
        workload: the model, what trains and the optimizer; neither its partition nor how its
            samples are cut into micro-batches counts.
        device: that runs it.
        num_samples: of the step, at least 1; default all of the workload's.
        reserved_bytes: of its memory that are needed for something else.
        memory: of passes of this workload, as far as it is known already.
    """
    number = int(workload.samples.sum()) if num_samples is None else num_samples
    known = PassMemory(workload) if memory is None else memory
    room_bytes = device.memory_bytes - reserved_bytes
    num_passes = int(known.fewest_passes(room_bytes, number)[-1]) or number
    pass_samples = split_evenly(number, num_passes)
    needed = known.of(pass_samples[0], num_passes > 1)
    one = whole(workload, (number,))
    update_bytes = optimizer_bytes_moved(one, on_one_device(one))
    return DeviceRun(
        device=device,
        pass_samples=pass_samples,
        passes=pass_seconds(workload, device, pass_samples),
        update_s=float(device.seconds(WorkKind.OPTIMIZER, 0.0, update_bytes)[0]),
        flops=step_flops(one, uniform_schedule(one.num_subnets, 1, Operation.FULL)),
        memory=needed,
        fits=bool(needed.total[0] <= room_bytes),
    )


def seconds_by_samples(
    workload: Workload,
    device: Device,
    most: int,
    *,
    reserved_bytes: float = 0.0,
    memory: PassMemory | None = None,
) -> np.ndarray:
    """Forward and backward of 0 to `most` samples as `device_alone` runs them, without the update.

    Returns:
        float ``[most + 1]``; inf where not even one sample a pass fits.
    """
    known = PassMemory(workload) if memory is None else memory
    samples = np.arange(most + 1)
    num_passes = known.fewest_passes(device.memory_bytes - reserved_bytes, most)
    least, larger = np.divmod(samples, np.maximum(num_passes, 1))
    largest = int((least + (larger > 0))[num_passes > 0].max(initial=1))
    of_pass_s = np.concatenate(
        [[0.0], pass_seconds(workload, device, range(1, largest + 1), is_trial=True).total_s]
    )
    at_least, one_more = (np.minimum(least + more, largest) for more in (0, 1))
    seconds = (num_passes - larger) * of_pass_s[at_least] + larger * of_pass_s[one_more]
    return np.where((num_passes > 0) | (samples == 0), seconds, np.inf)


def fastest_alone(workload: Workload, cluster: Cluster) -> DeviceRun | None:
    """The device that would run the dense step in the least time; None where none can hold it."""
    memory = PassMemory(workload)
    runs = [device_alone(workload, device, memory=memory) for device in cluster.devices]
    return min((run for run in runs if run.fits), key=lambda run: run.step_s, default=None)
