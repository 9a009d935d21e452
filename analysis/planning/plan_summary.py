"""What a plan does, device by device, beside the dense run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.planning.step_totals import StepTotals, step_totals
from d2ft_sched.costs.flops import operation_flops
from d2ft_sched.costs.memory import DeviceMemory
from d2ft_sched.costs.parameters import trained_device_parameters
from d2ft_sched.costs.replica_memory import replicas_memory
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.schedule.operations import Operation


@dataclass(frozen=True)
class PlanSummary:
    """Counts of a plan; FLOPs and bytes are exact, not predictions.

    Attributes:
        operations: how many of each operation, in the order of `Operation`, int
            ``[num_devices, 4]``.
        device_flops_fraction: subnet FLOPs of each device over those of the dense run, float
            ``[num_devices]``, NaN for a device without subnets.
        num_subnets: that each device holds, int ``[num_devices]``.
        totals: of a step.
        dense_totals: of the same with every operation FULL.
    """

    operations: np.ndarray
    device_flops_fraction: np.ndarray
    num_subnets: np.ndarray
    totals: StepTotals
    dense_totals: StepTotals

    @property
    def flops(self) -> float:
        """Of a step, trunk included."""
        return self.totals.flops

    @property
    def dense_flops(self) -> float:
        return self.dense_totals.flops

    @property
    def exchange_bytes(self) -> int:
        """Dispatched and combined in a step."""
        return self.totals.message_bytes

    @property
    def dense_exchange_bytes(self) -> int:
        return self.dense_totals.message_bytes

    @property
    def compute_fraction(self) -> float:
        return self.flops / self.dense_flops

    @property
    def communication_fraction(self) -> float:
        """1 where the dense run exchanges nothing."""
        return self.exchange_bytes / self.dense_exchange_bytes if self.dense_exchange_bytes else 1.0


def summarize(plan: Plan) -> PlanSummary:
    """Count a plan's operations, FLOPs and bytes."""
    num_devices = len(plan.cluster.devices)
    device_flops = np.zeros((2, num_devices))
    for part in plan.parts:
        device, flops = (
            np.array(part.placement.subnet_device),
            operation_flops(part.workload, part.placement),
        )
        for op in Operation:
            of_op = (flops[..., op] * (part.schedule == op)).sum(axis=1)
            np.add.at(device_flops[0], device, of_op)
        np.add.at(device_flops[1], device, flops[..., Operation.FULL].sum(axis=1))
    return PlanSummary(
        operations=operations_by_device(plan),
        device_flops_fraction=np.divide(
            device_flops[0],
            device_flops[1],
            out=np.full(num_devices, np.nan),
            where=device_flops[1] > 0,
        ),
        num_subnets=held_by_device(plan)[0],
        totals=step_totals(plan, plan.schedule),
        dense_totals=step_totals(plan, plan.uniform(Operation.FULL)),
    )


def plan_memory(plan: Plan) -> tuple[DeviceMemory, np.ndarray]:
    """Bytes of a step by purpose, and those of frozen parameters, float ``[num_devices]``."""
    memory = replicas_memory(plan.workload, plan.replicas, plan.schedule)
    trained = np.sum(
        [trained_device_parameters(plan.workload, r.placement) for r in plan.replicas], axis=0
    )
    return memory, memory.parameters - trained * plan.workload.parameter_bytes


def device_names(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Names of each replica's devices."""
    names = [device.name for device in plan.cluster.devices]
    return tuple(tuple(names[d] for d in replica.devices) for replica in plan.replicas)


def held_by_device(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Subnets that each device holds and micro-batches that it owns, int ``[num_devices]``."""
    held, owned = np.zeros((2, len(plan.cluster.devices)), dtype=int)
    for replica in plan.replicas:
        np.add.at(held, list(replica.placement.subnet_device), 1)
        np.add.at(owned, list(replica.placement.owner), 1)
    return held, owned


def operations_by_device(plan: Plan) -> np.ndarray:
    """How many of each operation, in the order of `Operation`, int ``[num_devices, 4]``."""
    operations = np.zeros((len(plan.cluster.devices), len(Operation)), dtype=int)
    for part in plan.parts:
        for op in Operation:
            number = (part.schedule == op).sum(axis=1)
            np.add.at(operations[:, op], list(part.placement.subnet_device), number)
    return operations


def summary_dict(plan: Plan) -> dict[str, Any]:
    """The summary and the solver's record as plain values."""
    summary, (memory, frozen) = summarize(plan), plan_memory(plan)
    again = {d for replica in plan.replicas for d in replica.placement.recomputing}
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
        "gradient_bytes": summary.totals.gradient_bytes,
        "dense_gradient_bytes": summary.dense_totals.gradient_bytes,
        "resting": plan.budget.resting,
        "frozen_precision": plan.workload.frozen_precision if plan.workload.lora else None,
        "devices": [
            {
                "name": device.name,
                "num_full": int(summary.operations[d, Operation.FULL]),
                "num_rest": int(summary.operations[d, Operation.REST]),
                "num_forward_only": int(summary.operations[d, Operation.FORWARD_ONLY]),
                "num_shortcut": int(summary.operations[d, Operation.SHORTCUT]),
                "flops_fraction": float(summary.device_flops_fraction[d]),
                "computes_forward_again": d in again,
                "frozen_weight_bytes": float(frozen[d]),
                "peak_memory_bytes": float(memory.total[d]),
                "memory_bytes": device.memory_bytes,
            }
            for d, device in enumerate(plan.cluster.devices)
        ],
    }
