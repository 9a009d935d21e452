"""Forward and backward of one replica by its number of samples: what the search compares."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import PassMemory, PassSeconds, pass_seconds
from sim.ways.estimate.load import Load, dense_load

NUM_SIZES = 16
"""Of passes whose memory is computed."""


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

    @cached_property
    def done_s(self) -> np.ndarray:
        """When backward of every block has ended, float ``[most + 1, num_blocks]``."""
        later_s = np.cumsum(np.pad(self.last_backward_s[:, :-1], ((0, 0), (1, 0))), axis=1)
        return self.total_s[:, None] - later_s

    def ends_s(self, after_s: np.ndarray) -> np.ndarray:
        """When sums end that no other replica delays, float ``[most + 1]``, 0 for no samples.

        Args:
            after_s: seconds from the end of a block's backward on, float ``[num_blocks]``.
        """
        ends_s = (self.done_s + after_s).max(axis=1)
        ends_s[0] = 0.0
        return ends_s


@dataclass(frozen=True, eq=False)
class PlainRuns:
    """Runs of one kind of device alone with the whole model, of any load, with forward computed
    once, or always again in backward.

    Attributes:
        num_passes: as of `ReplicaRun`.
        passes: seconds of a pass of 1, 2, ... samples where every block trains.
        update_s: of the update where every block trains.
        update_share: of that which each block and, at last, the trunk make, float
            ``[num_blocks + 1]``.
        has_adapters: whether only these train; then nothing goes backward before the first block
            that trains.
    """

    num_passes: np.ndarray
    passes: PassSeconds
    update_s: float
    update_share: np.ndarray
    has_adapters: bool

    def of(self, load: Load) -> ReplicaRun:
        """Its run where some blocks rest; no more passes are needed for that."""
        seconds = self.passes
        of_block_s = np.where(
            load.trains, seconds.other_block_s[:, None], seconds.other_rest_s[:, None]
        )
        if self.has_adapters:
            first = load.first_trained
            of_block_s[:, :first] = seconds.trunk_s[:, None]
            of_block_s[:, first : first + 1] = seconds.first_block_s[:, None]
        by_size = np.pad(of_block_s, ((1, 0), (0, 0)))
        of_pass_s = np.pad(seconds.forward_s, (1, 0)) + by_size.sum(axis=1)
        samples = np.arange(load.num_samples + 1)
        num_passes = self.num_passes[: load.num_samples + 1]
        least, larger = np.divmod(samples, np.maximum(num_passes, 1))
        most = len(of_pass_s) - 1
        one_more = np.minimum(least + 1, most)
        least = np.minimum(least, most)
        total_s = (num_passes - larger) * of_pass_s[least] + larger * of_pass_s[one_more]
        total_s = np.where((num_passes > 0) | (samples == 0), total_s, np.inf)
        trained = np.append(load.trains, True)
        return ReplicaRun(
            num_passes,
            total_s,
            by_size[least],
            self.update_s * float(self.update_share @ trained),
        )


@dataclass(frozen=True, eq=False)
class DeviceRuns:
    """Runs of one kind of device alone that computes forward again where that is faster: where
    memory then asks for fewer passes, or holds the model at all.

    Attributes:
        once: where it keeps what backward needs.
        again: where it keeps inputs alone; None where that can make nothing faster.
        recomputes: which of the two it is, by the dense step of every number of samples, bool
            ``[most + 1]``.
    """

    once: PlainRuns
    again: PlainRuns | None
    recomputes: np.ndarray

    @property
    def num_passes(self) -> np.ndarray:
        """As of `ReplicaRun`."""
        if self.again is None:
            return self.once.num_passes
        return np.where(self.recomputes, self.again.num_passes, self.once.num_passes)

    def of(self, load: Load) -> ReplicaRun:
        """Its run of a load."""
        once = self.once.of(load)
        if self.again is None:
            return once
        again, recomputes = self.again.of(load), self.recomputes[: load.num_samples + 1]
        return ReplicaRun(
            np.where(recomputes, again.num_passes, once.num_passes),
            np.where(recomputes, again.total_s, once.total_s),
            np.where(recomputes[:, None], again.last_backward_s, once.last_backward_s),
            once.update_s,
        )


def device_runs(
    workload: Workload,
    device: Device,
    most: int,
    *,
    reserved_bytes: float,
    update_s: float,
    update_share: np.ndarray,
    memory: tuple[PassMemory, PassMemory],
) -> DeviceRuns:
    """Price a device that runs up to `most` samples, forward once or again as is faster.

    Args:
        workload, device, most, reserved_bytes, update_s, update_share: as of `plain_runs`.
        memory: of passes where forward is computed once, and where it is computed again.
    """

    def runs(known: PassMemory) -> PlainRuns:
        return plain_runs(
            workload,
            device,
            most,
            reserved_bytes=reserved_bytes,
            update_s=update_s,
            update_share=update_share,
            memory=known,
        )

    once = runs(memory[0])
    if (once.num_passes[1:] == 1).all():
        return DeviceRuns(once, None, np.zeros(most + 1, dtype=bool))
    again, every = runs(memory[1]), dense_load(workload, most)
    return DeviceRuns(once, again, again.of(every).total_s < once.of(every).total_s)


def plain_runs(
    workload: Workload,
    device: Device,
    most: int,
    *,
    reserved_bytes: float,
    update_s: float,
    update_share: np.ndarray,
    memory: PassMemory,
) -> PlainRuns:
    """Price a device that runs up to `most` samples in the fewest passes that its memory holds.

    Args:
        workload: the model, what trains and the optimizer.
        device: that runs it.
        most: samples.
        reserved_bytes: of its memory that are needed for messages.
        update_s, update_share: as of `PlainRuns`.
        memory: of passes of this workload, as far as it is known already.
    """
    num_passes = fewest_passes(memory, device.memory_bytes - reserved_bytes, most)
    samples = np.arange(most + 1)
    largest = int((-(-samples // np.maximum(num_passes, 1)))[num_passes > 0].max(initial=1))
    passes = pass_seconds(
        workload, device, range(1, largest + 1), recomputes=memory.recomputes, is_trial=True
    )
    return PlainRuns(num_passes, passes, update_s, update_share, workload.lora is not None)


def input_bytes(workload: Workload) -> float:
    """Of one sample; those of a whole share are there from the beginning of a step."""
    shape = workload.shape
    return shape.embed_flops / (2 * shape.width) * workload.parameter_bytes


def fewest_passes(memory: PassMemory, room_bytes: float, most: int) -> np.ndarray:
    """Passes that 0 to `most` samples need on one device, int ``[most + 1]``; 0 where not even one
    sample a pass fits.

    Between some sizes of passes their memory is interpolated, which never makes it too small: it is
    the largest of several linear functions.

    Args:
        memory: of passes.
        room_bytes: for all of it.
        most: samples.
    """
    num_passes = np.minimum(np.arange(most + 1), 1)
    if memory.of(most, False).total[0] <= room_bytes:
        return num_passes
    sizes = np.unique(np.geomspace(1, most, NUM_SIZES).round().astype(int))
    of_sample = input_bytes(memory.workload)
    besides_inputs = []
    for is_one_of_several in (False, True):
        total = np.array([memory.of(n, is_one_of_several).total[0] for n in sizes.tolist()])
        counted = (1 + is_one_of_several) * sizes
        besides_inputs.append(np.interp(np.arange(most + 1), sizes, total - counted * of_sample))
    passes = 1
    for number in range(1, most + 1):
        while True:
            largest = -(-number // passes)
            needed = besides_inputs[passes > 1][largest] + number * of_sample
            if needed <= room_bytes:
                break
            if largest == 1:
                num_passes[number:] = 0
                return num_passes
            passes += 1
        num_passes[number] = passes
    return num_passes
