"""The memory of devices in the program of `place_mip`."""

from typing import Any

import numpy as np

from d2ft_sched.costs.parameters import stored_bytes, trained_trunk_parameters
from d2ft_sched.model.optimizer_states import OPTIMIZER_STATES
from d2ft_sched.placement_search.dense_step import DenseStep
from d2ft_sched.placement_search.layout import subnet_bytes

GIGABYTE = 1e9


def limit_memory(
    program: Any,
    step: DenseStep,
    held: dict[tuple[int, int, int], Any],
    active: dict[tuple[int, int], Any],
    owns: dict[tuple[int, int], Any],
    share: dict[tuple[int, int], Any],
) -> None:
    """Memory at its most: everything that a device ever keeps, all at once."""
    workload = step.workload
    need = subnet_bytes(step, 1.0)
    copies = 1 + OPTIMIZER_STATES[workload.optimizer]
    trained = trained_trunk_parameters(workload)
    stored = stored_bytes(workload, workload.shape.trunk_parameters, trained)
    trunk = float(stored + copies * trained * workload.parameter_bytes) / GIGABYTE
    everything = float(workload.activation_bytes.sum()) / GIGABYTE
    stream = float(workload.stream_bytes.sum()) / GIGABYTE
    hidden = 2 * float(workload.tokens.sum()) * workload.element_bytes / GIGABYTE
    num_blocks = workload.shape.num_blocks
    per_owned = 4 + 2 * int(workload.shape.layer_scale) + 2
    for d in range(step.num_devices):
        total: Any = 0
        for (_, device, s), number in held.items():
            if device == d:
                total = total + float(need[s]) / GIGABYTE * number
        for (_, device), is_active in active.items():
            if device == d:
                total = total + 2 * everything * is_active
        workspace = program.new_num_var(0, np.inf, f"workspace_{d}")
        example, _ = step.sizes
        for b in range(num_blocks):
            program.add(
                workspace
                >= sum(
                    hidden * float(workload.partition.hidden[example[s]]) * held[b, d, s]
                    for s in range(len(example))
                )
            )
        for w in range(len(step.waves)):
            owner_bytes = (per_owned * num_blocks + 8) * stream * share[w, d]
            owner_bytes = owner_bytes + trunk * owns[w, d]
            buffers = 2 * everything + step.num_devices * everything * share[w, d]
            program.add(
                total + workspace + owner_bytes + buffers
                <= step.cluster.devices[step.devices[d]].memory_bytes / GIGABYTE
            )
