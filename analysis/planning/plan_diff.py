"""Two plans side by side: what differs in budget, placement and operations, and what that does."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from analysis.planning.plan_summary import device_names, held_by_device, operations_by_device
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import cluster_to_dict
from d2ft_sched.errors import InputError
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.plan.solved_plan import Plan
from d2ft_sched.problem.budget import Budget
from d2ft_sched.schedule.operations import Operation
from sim.prediction import Prediction
from sim.step import simulate_plan


@dataclass(frozen=True)
class DeviceDiff:
    """One device of both plans.

    Attributes:
        name: of the device.
        operations: how many of each operation, in the order of `Operation`, by plan.
        num_subnets: held, by plan.
        num_owned: micro-batches owned, by plan.
        busy_s: predicted, by plan.
    """

    name: str
    operations: tuple[tuple[int, ...], tuple[int, ...]]
    num_subnets: tuple[int, int]
    num_owned: tuple[int, int]
    busy_s: tuple[float, float]


@dataclass(frozen=True)
class PlanDiff:
    """Differences from a first plan to a second.

    Attributes:
        settings: by name, the values that differ (budget, model, cluster, solver, waves).
        num_moved: subnets that other devices hold.
        num_reowned: samples with another owner.
        changed: by (operation before, operation after), of how many (subnet, sample); only those
            that changed.
        devices: by device.
        effects: by quantity, its predicted value in both plans.
    """

    settings: dict[str, tuple[Any, Any]]
    num_moved: int
    num_reowned: int
    changed: dict[tuple[str, str], int]
    devices: tuple[DeviceDiff, ...]
    effects: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "settings": {name: list(map(str, pair)) for name, pair in self.settings.items()},
            "num_moved": self.num_moved,
            "num_reowned": self.num_reowned,
            "changed": {f"{before} -> {after}": n for (before, after), n in self.changed.items()},
            "devices": [vars(device) for device in self.devices],
            "predicted": {name: list(pair) for name, pair in self.effects.items()},
        }


def diff_plans(first: Plan, second: Plan) -> PlanDiff:
    """Compare two plans of the same model, partition and number of samples, on any replicas.

    Raises:
        InputError: these differ, or the numbers of devices do.
    """
    _check_comparable(first, second)
    plans = (first, second)
    counts = tuple((operations_by_device(plan), *held_by_device(plan)) for plan in plans)
    predictions = (simulate_plan(first), simulate_plan(second))
    return PlanDiff(
        settings=_settings(first, second),
        num_moved=sum(a != b for a, b in zip(*map(_holders, plans), strict=True)),
        num_reowned=int((_owner_of_samples(first) != _owner_of_samples(second)).sum()),
        changed=_changed(*map(_of_samples, plans)),
        devices=tuple(
            _device_diff(d, device.name, counts, predictions)
            for d, device in enumerate(first.cluster.devices)
        ),
        effects=_effects(plans, predictions),
    )


def _check_comparable(first: Plan, second: Plan) -> None:
    for what, a, b in (
        ("models", first.workload.shape.name, second.workload.shape.name),
        ("numbers of devices", len(first.cluster.devices), len(second.cluster.devices)),
        ("numbers of subnets", first.workload.num_subnets, second.workload.num_subnets),
        ("numbers of samples", *(int(plan.workload.samples.sum()) for plan in (first, second))),
    ):
        if a != b:
            raise InputError(f"the plans have different {what}, {a} and {b}; they must be equal")
    if first.workload.partition != second.workload.partition:
        raise InputError("the plans cut their blocks differently; the partitions must be equal")


def _settings(first: Plan, second: Plan) -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {
        f"budget.{field.name}": (
            getattr(first.budget, field.name),
            getattr(second.budget, field.name),
        )
        for field in fields(Budget)
    }
    shapes = (first.workload.shape, second.workload.shape)
    for field in fields(ModelShape):
        pairs[f"model.{field.name}"] = tuple(getattr(shape, field.name) for shape in shapes)
    pairs["cluster"] = _clusters(first.cluster, second.cluster)
    for name, get in (
        ("micro-batch samples", lambda plan: plan.workload.microbatch_samples),
        ("optimizer", lambda plan: plan.workload.optimizer),
        ("bytes of a value sent", lambda plan: plan.workload.element_bytes),
        ("bytes of a parameter", lambda plan: plan.workload.parameter_bytes),
        ("bytes of a frozen parameter", lambda plan: plan.workload.frozen_bytes),
        ("adapters", lambda plan: _adapters(plan.workload.lora)),
        ("replicas", _replicas_text),
        ("forward computed again", _recomputing_text),
        ("waves", lambda plan: ", ".join(str(replica.num_waves) for replica in plan.replicas)),
        ("solver", lambda plan: plan.solver.name),
        ("method", lambda plan: plan.solver.method),
        ("status", lambda plan: plan.solver.status),
    ):
        pairs[name] = (get(first), get(second))
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _recomputing_text(plan: Plan) -> str:
    again = sorted(d for replica in plan.replicas for d in replica.placement.recomputing)
    return ", ".join(plan.cluster.devices[d].name for d in again) or "nowhere"


def _clusters(first: Cluster, second: Cluster) -> tuple[str, str]:
    """Names of two clusters; where they have one name, what else differs is said as well."""
    before, after = cluster_to_dict(first), cluster_to_dict(second)
    differing = [key for key in ("devices", "network") if before[key] != after[key]]
    if first.name != second.name or not differing:
        return first.name, second.name
    return first.name, f"{second.name} with other {' and '.join(differing)}"


def _adapters(lora: Lora | None) -> str:
    return "none" if lora is None else f"rank {lora.rank}, alpha {lora.alpha:g}"


def _replicas_text(plan: Plan) -> str:
    return "; ".join(" + ".join(names) for names in device_names(plan))


def _holders(plan: Plan) -> list[tuple[int, ...]]:
    """Devices that hold each subnet, one of each replica."""
    holders = zip(*(replica.placement.subnet_device for replica in plan.replicas), strict=True)
    return [tuple(sorted(devices)) for devices in holders]


def _owner_of_samples(plan: Plan) -> np.ndarray:
    """Device that owns each sample, int ``[num_samples]``."""
    owners = [owner for replica in plan.replicas for owner in replica.placement.owner]
    return np.repeat(owners, plan.workload.samples)


def _of_samples(plan: Plan) -> np.ndarray:
    """Operation of every subnet on every sample, int8 ``[num_subnets, num_samples]``."""
    return np.repeat(plan.schedule, plan.workload.samples, axis=1)


def _changed(first: np.ndarray, second: np.ndarray) -> dict[tuple[str, str], int]:
    changed = {}
    for before in Operation:
        for after in Operation:
            number = int(((first == before) & (second == after)).sum())
            if before != after and number:
                changed[before.name, after.name] = number
    return changed


def _device_diff(
    d: int,
    name: str,
    counts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    predictions: tuple[Prediction, Prediction],
) -> DeviceDiff:
    (first, first_held, first_owned), (second, second_held, second_owned) = counts
    return DeviceDiff(
        name=name,
        operations=(tuple(first[d].tolist()), tuple(second[d].tolist())),
        num_subnets=(int(first_held[d]), int(second_held[d])),
        num_owned=(int(first_owned[d]), int(second_owned[d])),
        busy_s=(float(predictions[0].device_busy_s[d]), float(predictions[1].device_busy_s[d])),
    )


def _effects(
    plans: tuple[Plan, Plan], predictions: tuple[Prediction, Prediction]
) -> dict[str, tuple[float, float]]:
    first, second = predictions
    return {
        "objective": (plans[0].solver.objective, plans[1].solver.objective),
        "step_s": (first.step_s, second.step_s),
        "exchange_s": (first.exchange_s, second.exchange_s),
        "flops": (first.flops, second.flops),
        "exchange_bytes": (first.exchange_bytes, second.exchange_bytes),
        "peak_memory_bytes": (
            float(first.peak_memory_bytes.max()),
            float(second.peak_memory_bytes.max()),
        ),
    }
