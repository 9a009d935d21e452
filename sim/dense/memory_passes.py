"""A pass of some samples through a whole model on one device: seconds and memory.

Nothing here depends on a plan: the model is not cut into subnets, nor the samples into
micro-batches. Samples that do not fit the memory at once run in several passes, one after another,
whose gradients add up (gradient accumulation).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.cluster.device import Device
from d2ft_sched.costs.flops import (
    attention_flops_of,
    mlp_flops_of,
    shared_factor_flops,
)
from d2ft_sched.costs.input_gradients import hands_gradient_on
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of, shared_factor_bytes
from d2ft_sched.costs.memory import DeviceMemory, device_memory
from d2ft_sched.costs.trunk_work import trunk_pieces
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from d2ft_sched.schedule.schedule import uniform_schedule


def whole(workload: Workload, pass_samples: Sequence[int]) -> Workload:
    """The same model uncut, with one micro-batch for each pass."""
    shape = workload.shape
    return replace(
        workload,
        partition=partition_by_heads(shape, shape.num_heads),
        microbatch_samples=tuple(pass_samples),
    )


def on_one_device(passes: Workload, recomputes: bool = False) -> Placement:
    """Everything on a device of its own, which computes forward again in backward or not."""
    on_it = (0,) * passes.num_subnets, (0,) * passes.num_microbatches
    return Placement(1, *on_it, (0,) if recomputes else ())


def split_evenly(num_samples: int, num_passes: int) -> tuple[int, ...]:
    """Samples of each pass: they differ by at most one, the larger ones first."""
    least, larger = divmod(num_samples, num_passes)
    return (least + 1,) * larger + (least,) * (num_passes - larger)


@dataclass(frozen=True)
class PassSeconds:
    """Seconds of passes, float ``[num_passes]`` each.

    Attributes:
        forward_s: of the whole model.
        first_block_s: backward of the first block, with its share of the trunk.
        other_block_s: backward of any other block, with its share of the trunk.
        other_rest_s: the same where it rests.
        trunk_s: a block's share of the trunk's backward.
        num_blocks: of the model.
    """

    forward_s: np.ndarray
    first_block_s: np.ndarray
    other_block_s: np.ndarray
    other_rest_s: np.ndarray
    trunk_s: np.ndarray
    num_blocks: int

    @property
    def backward_s(self) -> np.ndarray:
        """Of the whole model, float ``[num_passes]``."""
        return self.first_block_s + (self.num_blocks - 1) * self.other_block_s

    @property
    def total_s(self) -> np.ndarray:
        """Forward and backward, float ``[num_passes]``."""
        return self.forward_s + self.backward_s

    def backward_block_s(self, number: int) -> np.ndarray:
        """Backward of every block in one pass, in the order of the model, ``[num_blocks]``."""
        seconds = np.full(self.num_blocks, self.other_block_s[number])
        seconds[0] = self.first_block_s[number]
        return seconds


def pass_seconds(
    workload: Workload,
    device: Device,
    pass_samples: Sequence[int],
    *,
    recomputes: bool = False,
    is_trial: bool = False,
) -> PassSeconds:
    """Price passes as a step of `sim.step` would be with every operation FULL.

    Args:
        workload: the model and what trains; neither its partition nor its micro-batches count.
        device: that runs them.
        pass_samples: samples of each, at least 1.
        recomputes: whether lanes compute forward again in backward.
        is_trial: see `Device.seconds`.
    """
    passes, num_blocks = whole(workload, pass_samples), workload.shape.num_blocks
    forward_s, backward_s = np.sum(
        [
            [device.seconds(*work, is_trial=is_trial) for work in piece.directions]
            for piece in trunk_pieces(passes)
        ],
        axis=0,
    )
    blocks = [_block_seconds(passes, device, block, recomputes, is_trial) for block in (0, 1)]
    (block_forward_s, first_s, _), (_, other_s, other_rest_s) = blocks
    trunk_s = backward_s / num_blocks
    return PassSeconds(
        forward_s + num_blocks * block_forward_s,
        first_s + trunk_s,
        other_s + trunk_s,
        other_rest_s + trunk_s,
        trunk_s,
        num_blocks,
    )


def _block_seconds(
    passes: Workload, device: Device, block: int, recomputes: bool, is_trial: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward, backward and, where it rests, backward of a block's lanes, float ``[num_passes]``
    each."""
    shape, tokens = passes.shape, passes.tokens
    needs_dx = hands_gradient_on(passes, np.array(block))
    heads, hidden = np.array(shape.num_heads), np.array(shape.mlp_hidden)
    moved, resting = (
        lane_bytes_of(passes, heads, hidden, tokens, on * heads, on * hidden, recomputes)
        for on in (True, False)
    )
    sublayers = (
        (
            attention_flops_of(passes, heads, tokens, needs_dx, recomputes),
            (moved.attention_forward, moved.attention_backward, resting.attention_backward),
            (WorkKind.ATTENTION_FORWARD, WorkKind.ATTENTION_BACKWARD),
            needs_dx,
        ),
        (
            mlp_flops_of(passes, hidden, tokens, True, recomputes),
            (moved.mlp_forward, moved.mlp_backward, resting.mlp_backward),
            (WorkKind.MLP_FORWARD, WorkKind.MLP_BACKWARD),
            True,
        ),
    )
    seconds = np.zeros((3, passes.num_microbatches))
    for maps_in, (own, own_moved, kinds, needed) in zip(shape.num_maps_in, sublayers, strict=True):
        shared = shared_factor_flops(passes, maps_in, tokens, tokens, tokens * needed, tokens)
        shared_moved = shared_factor_bytes(passes, maps_in, tokens, tokens, tokens)
        _, shared_rest = shared_factor_bytes(passes, maps_in, tokens, tokens, 0 * tokens)
        for flops, of_each in ((own, own_moved), (shared, (*shared_moved, shared_rest))):
            amounts = (flops.forward, flops.backward, flops.backward_input)
            for index, (amount, bytes_moved) in enumerate(zip(amounts, of_each, strict=True)):
                kind = kinds[min(index, 1)]
                seconds[index] += device.seconds(kind, amount, bytes_moved, is_trial=is_trial)
    return seconds[0], seconds[1], seconds[2]


@dataclass(frozen=True)
class PassMemory:
    """Memory of passes of a whole model on one device; what was asked once is remembered.

    Attributes:
        workload: the model, what trains, and the optimizer.
        recomputes: whether the device computes forward again in backward.
    """

    workload: Workload
    recomputes: bool = False
    _known: dict[tuple[int, bool], DeviceMemory] = field(default_factory=dict, repr=False)

    def of(self, largest: int, is_one_of_several: bool) -> DeviceMemory:
        """Bytes by purpose, float ``[1]`` each.

        Args:
            largest: samples of the largest pass, at least 1.
            is_one_of_several: whether gradients of a pass before it are kept; then the samples of
                the next pass are there, too.
        """
        key = (largest, is_one_of_several)
        if key not in self._known:
            passes = whole(self.workload, (largest,) * (2 if is_one_of_several else 1))
            num = passes.num_microbatches
            dense = uniform_schedule(passes.num_subnets, num, Operation.FULL)
            replica = Replica(on_one_device(passes, self.recomputes), num)
            self._known[key] = device_memory(passes, replica, dense)
        return self._known[key]

    def most_samples(self, room_bytes: float, most: int, is_one_of_several: bool) -> int:
        """The largest pass up to `most` samples that needs at most `room_bytes`; 0 for none."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.of(middle, is_one_of_several).total[0] <= room_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def fewest_passes(self, room_bytes: float, most: int) -> np.ndarray:
        """Passes that 0 to `most` samples need, int ``[most + 1]``; 0 where not even one sample a
        pass fits."""
        samples = np.arange(most + 1)
        at_once = self.most_samples(room_bytes, most, is_one_of_several=False)
        passes = np.where(samples <= at_once, np.minimum(samples, 1), 0)
        if at_once < most:
            largest = self.most_samples(room_bytes, most, is_one_of_several=True)
            if largest:
                several = np.maximum(2, -(-samples // largest))
                passes = np.where(samples <= at_once, passes, several)
        return passes
