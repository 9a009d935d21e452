"""One device that runs samples whole: the dense step as somebody with that device would run it."""

from dataclasses import dataclass

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
) -> DeviceRun:
    """The dense step of the whole model on one device, in the fewest passes that its memory holds.

    Passes are as equal as whole samples allow. Where not even one sample at a time fits, each is a
    pass of its own, and `DeviceRun.fits` is false.

    Args:
        workload: the model, what trains and the optimizer; neither its partition nor how its
            samples are cut into micro-batches counts.
        device: that runs it.
        num_samples: of the step, at least 1; default all of the workload's.
    """
    number = int(workload.samples.sum()) if num_samples is None else num_samples
    memory = PassMemory(workload)
    num_passes = int(memory.fewest_passes(device.memory_bytes, number)[-1]) or number
    pass_samples = split_evenly(number, num_passes)
    needed = memory.of(pass_samples[0], num_passes > 1)
    one = whole(workload, (number,))
    update_bytes = optimizer_bytes_moved(one, on_one_device(one))
    return DeviceRun(
        device=device,
        pass_samples=pass_samples,
        passes=pass_seconds(workload, device, pass_samples),
        update_s=float(device.seconds(WorkKind.OPTIMIZER, 0.0, update_bytes)[0]),
        flops=step_flops(one, uniform_schedule(one.num_subnets, 1, Operation.FULL)),
        memory=needed,
        fits=bool(needed.total[0] <= device.memory_bytes),
    )
