"""Forward and backward of one replica by its number of samples: what the search compares."""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np

from d2ft_sched.cluster.device import Device
from d2ft_sched.model.workload import Workload
from sim.dense.memory_passes import PassMemory, PassSeconds, pass_seconds
from sim.ways.estimate.load import Load, dense_load

NUM_SIZES = 16
"""Of passes whose memory is computed."""


class BackwardKind(IntEnum):
    """What a block, or a part of its subnets, does backward."""

    TRAINS = 0
    RESTS = 1
    FIRST = 2
    """Trains adapters where no block before it does."""
    NOTHING = 3
    """None before it trains adapters; its part of the trunk goes backward."""


@dataclass(frozen=True, eq=False)
class ReplicaRun:
    """Seconds of a replica for 0 to some number of samples.

    Attributes:
        total_s: forward and backward of all passes, float ``[most + 1]``; inf where nothing fits.
        backward_s: of a block of every kind in the last pass, float ``[num_kinds, most + 1]``.
        part: of every block, in the order of the model, that is of each kind, float
            ``[num_blocks, num_kinds]``.
        update_s: of the parameter update.
    """

    total_s: np.ndarray
    backward_s: np.ndarray
    part: np.ndarray
    update_s: float

    def done_s(self, num_samples: int) -> np.ndarray:
        """When backward of every block has ended with so many samples, float ``[num_blocks]``."""
        return self.total_s[num_samples] - self._num_before @ self.backward_s[:, num_samples]

    def ends_s(self, after_s: np.ndarray) -> np.ndarray:
        """When sums end that no other replica delays, float ``[most + 1]``, 0 for no samples.

        Args:
            after_s: seconds from the end of a block's backward on, float ``[num_blocks]``.
        """
        later_s = self._num_before @ self.backward_s
        ends_s = self.total_s + np.subtract(after_s[:, None], later_s, out=later_s).max(axis=0)
        ends_s[0] = 0.0
        return ends_s

    @cached_property
    def _num_before(self) -> np.ndarray:
        """Blocks of every kind before each, whose backward comes later, float
        ``[num_blocks, num_kinds]``."""
        return np.cumsum(np.pad(self.part[:-1], ((1, 0), (0, 0))), axis=0)


@dataclass(frozen=True, eq=False)
class PlainRuns:
    """Runs of one kind of device alone with the whole model, of any load, with forward computed
    once, or always again in backward.

    Attributes:
        num_passes: that memory asks for, int ``[most + 1]``; 0 where not even one sample a pass
            fits.
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
        """Its run where something rests; no more passes are needed for that."""
        trained = np.array(load.trained_part)
        part = np.zeros((len(trained), len(BackwardKind)))
        part[:, BackwardKind.TRAINS], part[:, BackwardKind.RESTS] = trained, 1 - trained
        if self.has_adapters:
            first, each = load.first_trained, np.eye(len(BackwardKind))
            part[:first] = each[BackwardKind.NOTHING]
            part[first : first + 1] = each[BackwardKind.FIRST]
        to = slice(load.num_samples + 1)
        total_s = self._forward_s[to] + part.sum(axis=0) @ self._backward_s[:, to]
        total_s[1:][self.num_passes[to][1:] == 0] = np.inf
        update_s = self.update_s * float(self.update_share @ np.append(trained, 1.0))
        return ReplicaRun(total_s, self.last_backward_s[:, to], part, update_s)

    @cached_property
    def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Samples of the smallest pass, which is the last, and how many passes have one more, int
        ``[most + 1]`` each."""
        return np.divmod(np.arange(len(self.num_passes)), np.maximum(self.num_passes, 1))

    def _of_all(self, of_size_s: np.ndarray) -> np.ndarray:
        """Of all passes, float ``[most + 1]``, from those of a pass by its samples."""
        least, larger = self._sizes
        by_size, most = np.pad(of_size_s, (1, 0)), len(of_size_s)
        one_more = by_size[np.minimum(least + 1, most)]
        return (self.num_passes - larger) * by_size[np.minimum(least, most)] + larger * one_more

    @cached_property
    def _forward_s(self) -> np.ndarray:
        return self._of_all(self.passes.forward_s)

    @cached_property
    def _of_kind_s(self) -> list[np.ndarray]:
        """Of a block of every kind in a pass of 1, 2, ... samples."""
        one = self.passes
        of_kind_s = {
            BackwardKind.TRAINS: one.other_block_s,
            BackwardKind.RESTS: one.other_rest_s,
            BackwardKind.FIRST: one.first_block_s,
            BackwardKind.NOTHING: one.trunk_s,
        }
        return [of_kind_s[kind] for kind in BackwardKind]

    @cached_property
    def _backward_s(self) -> np.ndarray:
        """Of a block of every kind in all passes, float ``[num_kinds, most + 1]``."""
        return np.array([self._of_all(of_size_s) for of_size_s in self._of_kind_s])

    @cached_property
    def last_backward_s(self) -> np.ndarray:
        """As of `ReplicaRun`, up to the most samples."""
        least, _ = self._sizes
        by_size = np.pad(np.array(self._of_kind_s), ((0, 0), (1, 0)))
        return by_size[:, np.minimum(least, by_size.shape[1] - 1)]


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

    @cached_property
    def num_passes(self) -> np.ndarray:
        """As of `PlainRuns`."""
        if self.again is None:
            return self.once.num_passes
        return np.where(self.recomputes, self.again.num_passes, self.once.num_passes)

    def of(self, load: Load) -> ReplicaRun:
        """Its run of a load."""
        once = self.once.of(load)
        if self.again is None:
            return once
        to = slice(load.num_samples + 1)
        total_s = np.where(self.recomputes[to], self.again.of(load).total_s, once.total_s)
        return replace(once, total_s=total_s, backward_s=self._last_backward_s[:, to])

    @cached_property
    def _last_backward_s(self) -> np.ndarray:
        if self.again is None:
            return self.once.last_backward_s
        both = self.again.last_backward_s, self.once.last_backward_s
        return np.where(self.recomputes, *both)


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
