"""Forward and backward of one replica by its number of samples: what the search compares."""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.model.workload import Workload
from sim.dense.passes import PassMemory, PassSeconds, pass_seconds
from sim.ways.load import Load


@dataclass(frozen=True, eq=False)
class ReplicaRun:
    """Seconds of a replica for 0 to some number of samples.

    Attributes:
        num_passes: that its memory asks for, int ``[most + 1]``; 0 where not even one sample a
            pass fits.
        total_s: forward and backward of all passes, float ``[most + 1]``; inf where nothing fits.
        last_backward_s: of every block in the last pass, in the order of the model, float
            ``[most + 1, num_blocks]``.
        update_s: of the parameter update.
    """

    num_passes: np.ndarray
    total_s: np.ndarray
    last_backward_s: np.ndarray
    update_s: float


@dataclass(frozen=True, eq=False)
class DeviceRuns:
    """Runs of one kind of device alone with the whole model, of any load.

    Attributes:
        num_passes: as of `ReplicaRun`.
        passes: seconds of a pass of 1, 2, ... samples where every block trains.
        update_s: of the update where every block trains.
        update_share: of that which each block and, at last, the trunk make, float
            ``[num_blocks + 1]``.
    """

    num_passes: np.ndarray
    passes: PassSeconds
    update_s: float
    update_share: np.ndarray

    def of(self, load: Load) -> ReplicaRun:
        """Its run where some blocks rest; no more passes are needed for that."""
        full, rest = load.num_trained, len(load.trains) - load.num_trained
        first_s, other_s = self.passes.first_block_s, self.passes.other_block_s
        first_rest_s, other_rest_s = self.passes.first_rest_s, self.passes.other_rest_s
        full, rest = full - load.trains[0], rest - (not load.trains[0])
        of_first_s = first_s if load.trains[0] else first_rest_s
        of_pass_s = np.concatenate(
            [[0.0], self.passes.forward_s + of_first_s + full * other_s + rest * other_rest_s]
        )
        samples = np.arange(load.num_samples + 1)
        num_passes = self.num_passes[: load.num_samples + 1]
        least, larger = np.divmod(samples, np.maximum(num_passes, 1))
        most = len(of_pass_s) - 1
        one_more = np.minimum(least + 1, most)
        least = np.minimum(least, most)
        total_s = (num_passes - larger) * of_pass_s[least] + larger * of_pass_s[one_more]
        total_s = np.where((num_passes > 0) | (samples == 0), total_s, np.inf)
        by_size = np.where(load.trains, other_s[:, None], other_rest_s[:, None])
        by_size[:, 0] = of_first_s
        by_size = np.concatenate([np.zeros((1, by_size.shape[1])), by_size])
        trained = np.append(load.trains, True)
        return ReplicaRun(
            num_passes,
            total_s,
            by_size[least],
            self.update_s * float(self.update_share @ trained),
        )


def device_runs(
    workload: Workload,
    device: Device,
    most: int,
    *,
    reserved_bytes: float,
    update_s: float,
    update_share: np.ndarray,
    memory: PassMemory,
) -> DeviceRuns:
    """Price a device that runs up to `most` samples in the fewest passes that its memory holds.

    Args:
        workload: the model, what trains and the optimizer.
        device: that runs it.
        most: samples.
        reserved_bytes: of its memory that are needed for messages.
        update_s, update_share: as of `DeviceRuns`.
        memory: of passes of this workload, as far as it is known already.
    """
    num_passes = memory.fewest_passes(device.memory_bytes - reserved_bytes, most)
    samples = np.arange(most + 1)
    largest = int((-(-samples // np.maximum(num_passes, 1)))[num_passes > 0].max(initial=1))
    passes = pass_seconds(workload, device, range(1, largest + 1), is_trial=True)
    return DeviceRuns(num_passes, passes, update_s, update_share)
