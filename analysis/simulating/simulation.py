"""What `d2ft simulate` finds out: a step beside what needs no planner, and what bounds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd

from analysis.planning.plan_baselines import Baselines, baselines, way_record, way_totals
from analysis.planning.plan_summary import device_names
from analysis.planning.way_request import is_on_way
from analysis.simulating.change_of_setting import change_where_needed
from d2ft_sched.errors import InputError
from d2ft_sched.plan.solved_plan import Plan
from sim.dense_baselines import tensor_parallel_step
from sim.prediction import Prediction
from sim.questions.bounds import critical_path_table, what_bounds
from sim.questions.cost import device_cost, step_cost
from sim.questions.jitter import Jitter, StepTimes, jittered_step_times
from sim.questions.sensitivity import Sensitivity, sensitivities
from sim.questions.utilisation import device_utilisation, link_utilisation
from sim.step import simulate_dense, simulate_plan
from sim.ways.search import WaySearch
from sim.ways.way import Way

FACTOR = 2.0
"""Improvement that is tried of every bottleneck."""


@dataclass(frozen=True)
class Reference:
    """A dense step to compare with.

    Attributes:
        name: of the way, or of a placement that nobody should run.
        is_naive: whether it is such a placement.
        replicas: names of the devices of each copy of the model.
        samples: that each of them runs.
        step_s: seconds.
        exchange_bytes: moved between devices.
        peak_memory_bytes: of the fullest device.
        out_of_memory: names of the devices that it does not fit.
    """

    name: str
    is_naive: bool
    replicas: tuple[tuple[str, ...], ...]
    samples: tuple[int, ...]
    step_s: float
    exchange_bytes: float
    peak_memory_bytes: float
    out_of_memory: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A dense step that needs no planner.

    Attributes:
        way: that it runs on.
        prediction: of it.
    """

    way: Way
    prediction: Prediction

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**way_record(self.way), **prediction_dict(self.prediction)}


@dataclass(frozen=True)
class Simulation:
    """A plan's step on a cluster and what there is to say of it.

    Attributes:
        plan: with the cluster that it was simulated on.
        planned: its step.
        held: what every saving is held against.
        best_dense: the least dense step of any way; None where none fits.
        fewer: dense on the samples that the plan's FLOPs suffice for, in their best way.
        as_short: dense on the most samples in as short a step; None where there are none.
        change: with what a plan would pay where this one does not; None where it does, or where
            nothing that was tried does.
        references: ways to do the dense step, the fastest first, and naive placements.
        sensitivities: what better resources would bring, the most important ones first.
        jitter: step times of "best dense" and "plan" with devices that are not always equally fast.
    """

    plan: Plan
    planned: Prediction
    held: Baselines
    best_dense: Baseline | None
    fewer: Baseline | None
    as_short: Baseline | None
    change: str | None
    references: tuple[Reference, ...]
    sensitivities: tuple[Sensitivity, ...]
    jitter: dict[str, StepTimes]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "cluster": self.plan.cluster.name,
            "overlap": self.planned.is_overlapped,
            "best_dense": self.best_dense.as_dict() if self.best_dense else None,
            "fewer_samples": self.fewer.as_dict() if self.fewer else None,
            "samples_as_short": self.as_short.as_dict() if self.as_short else None,
            "change_that_pays": self.change,
            "dense_step_lower_bound_s": self.held.search.lower_bound_s,
            "plan": {
                **prediction_dict(self.planned),
                "device_utilisation": _records(device_utilisation(self.planned)),
                "link_utilisation": _records(link_utilisation(self.planned)),
                "bounds": _records(what_bounds(self.planned)),
                "sensitivity": [self._sensitivity_dict(s) for s in self.sensitivities],
                "critical_path": _records(critical_path_table(self.planned)),
            },
            "references": [asdict(r) for r in self.references],
            "jitter": {name: asdict(times) for name, times in self.jitter.items()},
        }

    def _sensitivity_dict(self, found: Sensitivity) -> dict[str, Any]:
        step_s = self.planned.step_s
        return {
            "kind": str(found.bottleneck.kind),
            "resources": list(found.bottleneck.names(self.plan.cluster)),
            "bound_s": found.bound_s,
            "factor": found.factor,
            "step_s": found.step_s,
            "gain_s": step_s - found.step_s,
            "unlimited_step_s": found.unlimited_step_s,
            "first_saturation": found.first_saturation,
            "last_saturation": found.last_saturation,
        }


def read_jitter(sigma: float | None, straggler: str | None) -> Jitter | None:
    """Jitter as the command line takes it: the spread per phase, and ``"PROB:FACTOR"``.

    Raises:
        InputError: not two numbers, or out of range.
    """
    if sigma is None and straggler is None:
        return None
    if straggler is None:
        return Jitter(phase_sigma=sigma or 0.0)
    try:
        probability, factor = map(float, straggler.split(":"))
    except ValueError:
        raise InputError(
            f"--straggler is {straggler!r}; it must be a probability and a factor such as 0.01:3"
        ) from None
    return Jitter(sigma or 0.0, straggler_probability=probability, straggler_factor=factor)


def simulate(
    plan: Plan,
    *,
    overlap: bool = False,
    jitter: Jitter | None = None,
    num_steps: int = 1000,
    seed: int = 0,
    max_bottlenecks: int = 5,
) -> Simulation:
    """Simulate a plan on its cluster.

    Args:
        plan: what to execute, and where.
        overlap: whether its waves are overlapped.
        jitter: of the devices, if any.
        num_steps: steps to draw with jitter.
        seed: of the jitter.
        max_bottlenecks: of how many bottlenecks to try what better ones would bring; each takes
            two or three simulations. With 0 none is tried.
    """
    step = partial(simulate_plan, plan, overlap=overlap)
    planned = step()
    held = baselines(plan, planned.step_s)
    dense, fewer, as_short = (
        None if way is None else Baseline(way, simulate_dense(way))
        for way in (held.best_dense, held.fewer, held.as_short)
    )
    found: Sequence[Sensitivity] = ()
    if max_bottlenecks:
        found = sensitivities(planned, step, factor=FACTOR, max_bottlenecks=max_bottlenecks)
    times = {}
    if jitter is not None:
        drawn = {"best dense": dense.prediction} if dense else {}
        times = {
            name: jittered_step_times(prediction, jitter, num_steps, seed)
            for name, prediction in (drawn | {"plan": planned}).items()
        }
    references = (*_ways(held.search), *_naive(plan, held.search, overlap))
    change = change_where_needed(plan, planned.step_s, held, seed)
    return Simulation(
        plan, planned, held, dense, fewer, as_short, change, references, tuple(found), times
    )


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """A prediction's summary with the devices that it does not fit, and what it costs."""
    return {
        **prediction.summary(),
        "out_of_memory": [
            {**asdict(device), "shortfall_bytes": device.shortfall_bytes}
            for device in prediction.out_of_memory
        ],
        "cost": step_cost(prediction).summary(),
        "device_cost": _records(device_cost(prediction)),
    }


def _ways(search: WaySearch) -> list[Reference]:
    devices = search.cluster.devices
    return [
        Reference(
            name=str(way.name),
            is_naive=False,
            replicas=way.device_names,
            samples=way.samples,
            step_s=way.dense_step_s,
            exchange_bytes=way_totals(way).exchange_bytes,
            peak_memory_bytes=float(way.peak_memory_bytes.max()),
            out_of_memory=tuple(
                device.name
                for device, needed in zip(devices, way.peak_memory_bytes, strict=True)
                if needed > device.memory_bytes
            ),
        )
        for way in search.ways
    ]


def _naive(plan: Plan, search: WaySearch, overlap: bool) -> list[Reference]:
    """Dense steps that nobody should run: placed as the plan is, where that is none of the ways,
    and tensor parallel."""
    workload, cluster = plan.workload, plan.cluster
    found = {}
    if not is_on_way(plan):
        found["placed as the plan is"] = simulate_dense(plan, overlap)
    if len(cluster.devices) > 1 and workload.shape.mlp_hidden >= workload.shape.num_heads:
        for algorithm in ("ring", "tree"):
            found[f"tensor parallel, {algorithm}"] = tensor_parallel_step(
                workload, cluster, algorithm
            )
    samples = int(workload.samples.sum())
    references = []
    for name, prediction in found.items():
        busy_s = zip(cluster.devices, prediction.device_busy_s, strict=True)
        together = (tuple(device.name for device, s in busy_s if s > 0),)
        is_own = name == "placed as the plan is"
        references.append(
            Reference(
                name=name,
                is_naive=True,
                replicas=device_names(plan) if is_own else together,
                samples=tuple(int(part.workload.samples.sum()) for part in plan.parts)
                if is_own
                else (samples,),
                step_s=prediction.step_s,
                exchange_bytes=prediction.exchange_bytes,
                peak_memory_bytes=float(prediction.peak_memory_bytes.max()),
                out_of_memory=tuple(device.device for device in prediction.out_of_memory),
            )
        )
    return references


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
