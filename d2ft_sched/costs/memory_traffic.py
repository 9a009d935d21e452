"""Bytes that each phase of a step reads and writes, in closed form.

Matrix products and attention count every operand and result once (caches are taken to hold the
rest), elementwise work counts every pass over its tensors. These bytes are the work axis of the
curves of trunk and optimizer, and the memory roof of a device without curves.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.lanes.lane_traffic import NORM_BACKWARD_PASSES, NORM_FORWARD_PASSES
from d2ft_sched.costs.parameters import trained_device_parameters
from d2ft_sched.costs.partial_update import partial_updates
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.placement import Placement

BRANCH_FORWARD_PASSES = 8
"""Passes over ``[tokens, width]`` per block besides its norms: in both sub-layers the branch starts
from its bias, or zeros (1 write), the residual sum reads two and writes one."""

BRANCH_BACKWARD_PASSES = 8
"""In both sub-layers: sum of the two paths' gradients (2 reads, 1 write), zeros where no group
writes (1 write)."""

BIAS_BACKWARD_PASSES = 2
"""Output bias (1 read), in both sub-layers, whether anything runs or not; nothing where only
adapters train."""

IDLE_FORWARD_PASSES = 4
"""Per block without an operation: in both sub-layers the output bias is added (1 read, 1 write)."""

EMBEDDING_FORWARD_PASSES, EMBEDDING_BACKWARD_PASSES = 4, 3
"""Embedding and position, without the norm that there is besides; backward only if they train."""

RMS_SCALE_PASSES = 4
"""The gradient of an RMS norm's scale: 2 reads, 1 write, 1 read."""

RMS_CAST_PASSES = 4
"""Over a stream that is not in float32, in either direction, from it and back."""


@dataclass(frozen=True)
class TrunkBytes:
    """Bytes moved by the trunk, all blocks together, float ``[num_microbatches]``."""

    forward: np.ndarray
    backward: np.ndarray


def trunk_bytes_moved(workload: Workload, num_running: np.ndarray | None = None) -> TrunkBytes:
    """Norms, residuals, embedding and classifier of every micro-batch.

    Args:
        workload: the model and its micro-batches.
        num_running: blocks in which anything runs in the pass that a micro-batch is part of, int
            ``[num_microbatches]``; default all. The others have no norm to compute, but where it
            stands after the residual sum.
    """
    shape = workload.shape
    running: int | np.ndarray = shape.num_blocks
    if num_running is not None and shape.norm_first:
        running = num_running
    idle = shape.num_blocks - running
    stream, normed = workload.stream_bytes.astype(float), workload.norm_bytes.astype(float)
    image_elements = shape.embed_flops / (2 * shape.width)
    image = workload.samples * image_elements * workload.parameter_bytes
    trains, is_rms = workload.lora is None, shape.norm == "rms"
    norms = 2 * running + 1
    of_scale = RMS_SCALE_PASSES if trains and is_rms else 0
    casts = RMS_CAST_PASSES * norms * (is_rms and bool((normed > stream).any()))
    forward = BRANCH_FORWARD_PASSES * running + EMBEDDING_FORWARD_PASSES + casts
    backward = BRANCH_BACKWARD_PASSES * running + casts
    if shape.output_bias:
        forward = forward + IDLE_FORWARD_PASSES * idle
        backward = backward + BIAS_BACKWARD_PASSES * shape.num_blocks * trains
    if trains:
        backward = backward + EMBEDDING_BACKWARD_PASSES
    return TrunkBytes(
        stream * forward + normed * NORM_FORWARD_PASSES[shape.norm] * norms + image,
        stream * backward
        + normed * (NORM_BACKWARD_PASSES[shape.norm] + of_scale) * norms
        + image * trains,
    )


def optimizer_bytes_moved(
    workload: Workload, placement: Placement, trains: np.ndarray | None = None
) -> np.ndarray:
    """Bytes of one parameter update, float ``[num_devices]``.

    It reads gradients, and reads and writes parameters that train and optimizer state; those of
    subnets that rest are not touched, but for what `partial_updates` says.

    Args:
        workload: the model, what trains, and the optimizer.
        placement: which device holds what.
        trains: which subnets do in the step, bool ``[num_subnets]``; default all.
    """
    states, size = OPTIMIZER_STATES[workload.optimizer], workload.parameter_bytes
    moved = trained_device_parameters(workload, placement, trains) * (3 + 2 * states) * size
    if trains is None:
        return moved
    besides = partial_updates(workload, placement, trains).moved
    return moved + besides.sum(axis=0) * size
