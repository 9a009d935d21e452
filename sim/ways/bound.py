"""A dense step that no way beats."""

import numpy as np
from scipy.optimize import linprog

from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.compute_curve import WorkKind
from d2ft_sched.costs.flops import attention_flops, mlp_flops
from d2ft_sched.costs.lanes.lane_traffic import lane_bytes_of
from d2ft_sched.model.workload import Workload
from d2ft_sched.placement_search.dense_bound import best_rate
from sim.dense.memory_passes import whole
from sim.ways.estimate.kinds import device_kinds

SLOWEST = 1e9
"""Times as long as the fastest device takes for the least of all work, at the most: what takes
longer is counted as this, which keeps the bound one and the program within what can be solved."""


def least_step_s(workload: Workload, cluster: Cluster) -> float:
    """Seconds that all lanes of a dense step take if messages, memory and the trunk cost nothing.

    Every device does some part of each kind of work, at the best rate that it reaches on any part
    of it; the parts are those by which all end together (a linear program).

    Args:
        workload: the model, and how many samples there are.
        cluster: devices; links do not count.
    """
    work = _work(workload, int(workload.samples.sum()))
    kinds, number = np.unique(device_kinds(cluster), return_counts=True)
    first = [device_kinds(cluster).tolist().index(kind) for kind in kinds]
    whole_s = np.array(
        [
            [
                flops / best_rate(cluster.devices[d], kind, flops, 1.0, moved / flops)
                for kind, flops, moved in work
            ]
            for d in first
        ]
    )
    num_devices, num_kinds = whole_s.shape
    unit_s = whole_s.min()
    relative = np.minimum(whole_s / unit_s, SLOWEST)
    at_most = np.zeros((num_devices, num_devices * num_kinds + 1))
    for d in range(num_devices):
        at_most[d, d * num_kinds : (d + 1) * num_kinds] = relative[d]
        at_most[d, -1] = -number[d]
    all_done = np.hstack([np.tile(np.eye(num_kinds), num_devices), np.zeros((num_kinds, 1))])
    objective = np.zeros(at_most.shape[1])
    objective[-1] = 1.0
    found = linprog(
        objective,
        A_ub=at_most,
        b_ub=np.zeros(num_devices),
        A_eq=all_done,
        b_eq=np.ones(num_kinds),
        method="highs",
    )
    return float(found.fun) * unit_s * (1 - 1e-9)


def _work(workload: Workload, num_samples: int) -> list[tuple[WorkKind, float, float]]:
    """FLOPs of every kind of lane in the dense step, and the bytes that they move at the least."""
    one = whole(workload, (num_samples,))
    shape = one.shape
    moved = lane_bytes_of(one, np.array(shape.num_heads), np.array(shape.mlp_hidden), one.tokens)
    attention, mlp = attention_flops(one), mlp_flops(one)
    return [
        (kind, float(flops.sum()), shape.num_blocks * float(of_block[0]))
        for kind, flops, of_block in (
            (WorkKind.ATTENTION_FORWARD, attention.forward, moved.attention_forward),
            (WorkKind.ATTENTION_BACKWARD, attention.backward, moved.attention_backward),
            (WorkKind.MLP_FORWARD, mlp.forward, moved.mlp_forward),
            (WorkKind.MLP_BACKWARD, mlp.backward, moved.mlp_backward),
        )
    ]
