"""What `d2ft simulate` finds out: a plan's step beside dense ones, and what bounds it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd

from d2ft_sched.errors import InputError
from d2ft_sched.plan.plan import Plan
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.data_parallel import DataParallelSteps
from sim.dense.device_alone import DeviceRun, fastest_alone
from sim.dense_baselines import tensor_parallel_step
from sim.prediction import Prediction
from sim.questions.bounds import critical_path_table, what_bounds
from sim.questions.cost import device_cost, step_cost
from sim.questions.jitter import Jitter, StepTimes, jittered_step_times
from sim.questions.sensitivity import Sensitivity, sensitivities
from sim.questions.utilisation import device_utilisation, link_utilisation
from sim.step import simulate_plan, simulate_step

FACTOR = 2.0
"""Improvement that is tried of every bottleneck."""


@dataclass(frozen=True)
class Reference:
    """A way to do the dense step, to compare with.

    Attributes:
        name: of the way.
        devices: names of those that take part.
        samples: that each of them runs whole; none where they work on all samples together.
        passes: that each of them runs its samples in.
        step_s: seconds.
        exchange_bytes: moved between devices.
        peak_memory_bytes: of the fullest device.
        out_of_memory: names of the devices that it does not fit.
    """

    name: str
    devices: tuple[str, ...]
    samples: tuple[int, ...]
    passes: tuple[int, ...]
    step_s: float
    exchange_bytes: float
    peak_memory_bytes: float
    out_of_memory: tuple[str, ...]


@dataclass(frozen=True)
class Simulation:
    """A plan's step on a cluster and what there is to say of it.

    Attributes:
        plan: with the cluster that it was simulated on.
        planned: its step.
        dense: the step with every operation FULL under the plan's placement.
        references: ways to do the dense step: as placed, and without the plan's placement.
        sensitivities: what better resources would bring, the most important ones first.
        jitter: step times of "dense" and "plan" with devices that are not always equally fast.
    """

    plan: Plan
    planned: Prediction
    dense: Prediction
    references: tuple[Reference, ...]
    sensitivities: tuple[Sensitivity, ...]
    jitter: dict[str, StepTimes]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "cluster": self.plan.cluster.name,
            "overlap": self.planned.is_overlapped,
            "dense": prediction_dict(self.dense),
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
    planned, dense = step(), dense_step(plan, overlap)
    found: Sequence[Sensitivity] = ()
    if max_bottlenecks:
        found = sensitivities(planned, step, factor=FACTOR, max_bottlenecks=max_bottlenecks)
    times = {}
    if jitter is not None:
        times = {
            name: jittered_step_times(prediction, jitter, num_steps, seed)
            for name, prediction in (("dense", dense), ("plan", planned))
        }
    return Simulation(plan, planned, dense, _references(plan, dense), tuple(found), times)


def dense_step(plan: Plan, overlap: bool = False) -> Prediction:
    """The step of a plan with every operation FULL."""
    workload = plan.workload
    return simulate_step(
        workload,
        plan.cluster,
        plan.placement,
        uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL),
        plan.num_waves,
        overlap=overlap,
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


def _references(plan: Plan, dense: Prediction) -> tuple[Reference, ...]:
    workload, cluster = plan.workload, plan.cluster
    found = [_reference("as the plan is placed", dense)]
    if len(cluster.devices) > 1:
        if workload.shape.mlp_hidden >= workload.shape.num_heads:
            found += [
                _reference(
                    f"tensor parallel, {algorithm}",
                    tensor_parallel_step(workload, cluster, algorithm),
                )
                for algorithm in ("ring", "tree")
            ]
        parallel = DataParallelSteps(workload, cluster).best(least_members=2)
        if parallel is not None:
            found.append(_reference("data parallel, ring", parallel.prediction, parallel.runs))
    alone = fastest_alone(workload, cluster)
    if alone is not None:
        name = alone.device.name
        found.append(
            Reference(
                f"{name} alone",
                (name,),
                (sum(alone.pass_samples),),
                (alone.num_passes,),
                alone.step_s,
                0.0,
                alone.peak_memory_bytes,
                (),
            )
        )
    return tuple(found)


def _reference(name: str, prediction: Prediction, runs: Sequence[DeviceRun] = ()) -> Reference:
    devices = prediction.cluster.devices
    return Reference(
        name,
        tuple(d.name for d, s in zip(devices, prediction.device_busy_s, strict=True) if s > 0),
        tuple(sum(run.pass_samples) for run in runs),
        tuple(run.num_passes for run in runs),
        prediction.step_s,
        prediction.exchange_bytes,
        float(prediction.peak_memory_bytes.max()),
        tuple(device.device for device in prediction.out_of_memory),
    )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
