"""What a plan does, device by device, beside the dense run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from d2ft_sched.costs.exchange import plan_exchange
from d2ft_sched.costs.flops import operation_flops, step_flops
from d2ft_sched.plan.plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule


@dataclass(frozen=True)
class PlanSummary:
    """Counts of a plan; FLOPs and bytes are exact, not predictions.

    Attributes:
        operations: how many of each operation, in the order of `Operation`, int
            ``[num_devices, 4]``.
        device_flops_fraction: subnet FLOPs of each device over those of the dense run, float
            ``[num_devices]``, NaN for a device without subnets.
        flops, dense_flops: of a step, trunk included.
        exchange_bytes, dense_exchange_bytes: dispatched and combined in a step.
    """

    operations: np.ndarray
    device_flops_fraction: np.ndarray
    flops: float
    dense_flops: float
    exchange_bytes: int
    dense_exchange_bytes: int

    @property
    def compute_fraction(self) -> float:
        return self.flops / self.dense_flops

    @property
    def communication_fraction(self) -> float:
        """1 where the dense run exchanges nothing."""
        return self.exchange_bytes / self.dense_exchange_bytes if self.dense_exchange_bytes else 1.0


def summarize(plan: Plan) -> PlanSummary:
    """Count a plan's operations, FLOPs and bytes."""
    workload, placement, schedule = plan.workload, plan.placement, plan.schedule
    dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
    device = np.array(placement.subnet_device)
    operations = np.zeros((placement.num_devices, len(Operation)), dtype=int)
    flops = operation_flops(workload)
    device_flops = np.zeros((2, placement.num_devices))
    for op in Operation:
        np.add.at(operations[:, op], device, (schedule == op).sum(axis=1))
        np.add.at(device_flops[0], device, (flops[..., op] * (schedule == op)).sum(axis=1))
    np.add.at(device_flops[1], device, flops[..., Operation.FULL].sum(axis=1))
    return PlanSummary(
        operations=operations,
        device_flops_fraction=np.divide(
            device_flops[0],
            device_flops[1],
            out=np.full(placement.num_devices, np.nan),
            where=device_flops[1] > 0,
        ),
        flops=step_flops(workload, schedule, placement),
        dense_flops=step_flops(workload, dense, placement),
        exchange_bytes=plan_exchange(workload, placement, schedule).total_bytes(),
        dense_exchange_bytes=plan_exchange(workload, placement, dense).total_bytes(),
    )


def summary_dict(plan: Plan) -> dict[str, Any]:
    """The summary and the solver's record as plain values."""
    summary = summarize(plan)
    return {
        "solver": plan.solver.name,
        "method": plan.solver.method,
        "status": plan.solver.status,
        "objective": plan.solver.objective,
        "upper_bound": plan.solver.upper_bound,
        "gap": plan.solver.gap,
        "build_s": plan.solver.build_s,
        "solve_s": plan.solver.solve_s,
        "flops": summary.flops,
        "compute_fraction": summary.compute_fraction,
        "exchange_bytes": summary.exchange_bytes,
        "communication_fraction": summary.communication_fraction,
        "devices": [
            {
                "name": device.name,
                "num_full": int(summary.operations[d, Operation.FULL]),
                "num_forward_only": int(summary.operations[d, Operation.FORWARD_ONLY]),
                "num_shortcut": int(summary.operations[d, Operation.SHORTCUT]),
                "flops_fraction": float(summary.device_flops_fraction[d]),
            }
            for d, device in enumerate(plan.cluster.devices)
        ],
    }
