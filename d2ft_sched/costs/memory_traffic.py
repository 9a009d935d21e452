"""Bytes that each phase of a step reads and writes, in closed form.

Matrix products and attention count every operand and result once (caches are taken to hold the
rest), elementwise work counts every pass over its tensors. These bytes are the work axis of the
curves of trunk and optimizer, and the memory roof of a device without curves.
"""

from dataclasses import dataclass

import numpy as np

from d2ft_sched.costs.memory import trained_device_parameters
from d2ft_sched.model.workload import OPTIMIZER_STATES, Workload
from d2ft_sched.schedule.placement import Placement

TRUNK_FORWARD_PASSES = 12
"""Passes over ``[tokens, width]`` per block: in both sub-layers the norm reads and writes, the
branch starts from its bias (1 write), the residual sum reads two and writes one."""

TRUNK_BACKWARD_PASSES = 16
"""In both sub-layers: norm (2 reads, 1 write), sum of the two paths' gradients (2 reads, 1 write),
output bias (1 read), zeros where no group writes (1 write)."""

IDLE_FORWARD_PASSES = 4
"""Per block without an operation: in both sub-layers the output bias is added (1 read, 1 write)."""

IDLE_BACKWARD_PASSES = 2
"""There: output bias (1 read), in both sub-layers."""

EMBEDDING_PASSES = 6
"""Embedding, position and last norm, in either direction."""

NORM_PASSES = 3
"""The last norm's backward (2 reads, 1 write), all that is left of them where only adapters train;
nor is the gradient read for output biases then."""


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
    stream = workload.stream_bytes.astype(float)
    image_elements = shape.embed_flops / (2 * shape.width)
    image = workload.samples * image_elements * workload.parameter_bytes
    forward = TRUNK_FORWARD_PASSES * running + IDLE_FORWARD_PASSES * idle + EMBEDDING_PASSES
    if workload.lora is not None:
        backward = (TRUNK_BACKWARD_PASSES - 2) * running + NORM_PASSES
        return TrunkBytes(stream * forward + image, stream * backward)
    backward = TRUNK_BACKWARD_PASSES * running + IDLE_BACKWARD_PASSES * idle + EMBEDDING_PASSES
    return TrunkBytes(stream * forward + image, stream * backward + image)


def optimizer_bytes_moved(
    workload: Workload, placement: Placement, trains: np.ndarray | None = None
) -> np.ndarray:
    """Bytes of one parameter update, float ``[num_devices]``.

    It reads gradients, and reads and writes parameters that train and optimizer state; those of
    subnets that rest are not touched.

    Args:
        workload: the model, what trains, and the optimizer.
        placement: which device holds what.
        trains: which subnets do in the step, bool ``[num_subnets]``; default all.
    """
    per_parameter = (3 + 2 * OPTIMIZER_STATES[workload.optimizer]) * workload.parameter_bytes
    return trained_device_parameters(workload, placement, trains) * per_parameter
