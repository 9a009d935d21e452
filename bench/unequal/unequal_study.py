"""Unequal clusters at equal step time: the score that a plan keeps, and dense on fewer samples.

Every method must finish its simulated step within the target. Dense methods do so on fewer samples:
the micro-batches of most value, the last of them in part, with subnets and owners placed anew for
what is left; so they are as strong as leaving samples out can be.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from bench.unequal.dense_on_fewer import fewer_microbatches
from d2ft_sched import (
    Cluster,
    InputError,
    Operation,
    Plan,
    Replica,
    Scores,
    Workload,
    deploy,
    place_balanced,
    place_round_robin,
)
from d2ft_sched.costs.memory import dense_bytes
from d2ft_sched.placement_search.balanced import PlacementResult, place_candidates
from d2ft_sched.plan.planning import solve_formulation
from d2ft_sched.problem.formulate import formulate
from sim import drop_devices, simulate_plan, simulate_step
from sim.target.target_plan import best_plan, target_searches

MAX_CANDIDATES = 4
"""Placements that the plan is tried on."""
FREE, EVERY_DEVICE, TIGHT_MEMORY = "free", "every device", "tight memory"
SETTINGS = (FREE, EVERY_DEVICE, TIGHT_MEMORY)
"""Devices may stay empty; each holds a subnet of every block; or all memory together is `ROOM`
times what the dense step needs on one device, so that few can be left out."""
ROOM = 1.6


@dataclass(frozen=True)
class StudyRow:
    """One method on one cluster at one step time.

    Attributes:
        cluster: its name.
        setting: one of `SETTINGS`.
        scores: which scores were used.
        target_fraction: target over the dense step of the best such placement found.
        target_s: seconds.
        method: what was done.
        step_s: simulated seconds.
        retained_score: value kept over that of the whole mini-batch, dense.
        samples_fraction: samples that are used at all.
        num_devices: devices that hold subnets.
        note: what else is to be said.
    """

    cluster: str
    setting: str
    scores: str
    target_fraction: float
    target_s: float
    method: str
    step_s: float
    retained_score: float
    samples_fraction: float
    num_devices: int
    note: str = ""


class DenseBySamples:
    """Fastest dense step on a cluster for every number of samples; each is placed anew.

    What was placed once is kept.
    """

    def __init__(self, workload: Workload, cluster: Cluster, every_device: bool) -> None:
        self.workload, self.cluster, self.every_device = workload, cluster, every_device
        self._known: dict[tuple[int, ...], PlacementResult | None] = {}

    def at(self, samples: tuple[int, ...]) -> PlacementResult | None:
        """The best placement for micro-batches of these sizes; None where memory does not do."""
        if samples not in self._known:
            workload = replace(self.workload, microbatch_samples=samples)
            try:
                found = place_balanced(workload, self.cluster, every_device=self.every_device)
            except InputError:
                found = None
            self._known[samples] = found if found and found.fits_dense else None
        return self._known[samples]

    def step_s(self, samples: tuple[int, ...]) -> float:
        """Seconds of its dense step; inf where memory does not do."""
        found = self.at(samples)
        return found.dense_step_s if found else np.inf

    def most_samples(self, target_s: float) -> tuple[int, ...]:
        """Sizes of the most micro-batches, the last in part, whose dense step meets the target."""
        full = self.workload.microbatch_samples
        whole = 0
        while whole < len(full) and self.step_s(full[: whole + 1]) <= target_s:
            whole += 1
        if whole == len(full):
            return full
        low, high = 0, full[whole]
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.step_s((*full[:whole], middle)) <= target_s
            low, high = (middle, high) if fits else (low, middle)
        return (*full[:whole], low) if low else full[:whole]


def retained_by_samples(scores: Scores, samples: tuple[int, ...], full: tuple[int, ...]) -> float:
    """Share of the dense value that the best micro-batches of so many samples keep."""
    value = np.sort(scores.values()[..., Operation.FULL].sum(axis=0))[::-1]
    kept = sum(value[i] * n / full[i] for i, n in enumerate(samples))
    return float(kept / value.sum())


@dataclass(frozen=True, eq=False)
class _Setting:
    """A cluster with what does not depend on scores and step time."""

    name: str
    workload: Workload
    cluster: Cluster
    candidates: list[PlacementResult]
    dense: DenseBySamples
    fewer_devices: list[DenseBySamples]


def with_memory(cluster: Cluster, memory_bytes: float) -> Cluster:
    """The cluster with so much memory on each device."""
    devices = tuple(replace(d, memory_bytes=int(memory_bytes)) for d in cluster.devices)
    return replace(cluster, devices=devices)


def study(
    workload: Workload,
    clusters: Sequence[Cluster],
    scores: Mapping[str, Scores],
    fractions: Sequence[float],
) -> Iterator[StudyRow]:
    """All methods on all clusters and `SETTINGS`.

    Args:
        workload: model, partition and mini-batch of equal micro-batches.
        clusters: stars.
        scores: by name.
        fractions: targets over the dense step of the best placement.
    """
    for cluster in clusters:
        for name in SETTINGS:
            setting = _setting(name, workload, cluster)
            for scores_name, own in scores.items():
                yield from _rows(setting, scores_name, own, fractions)


def _setting(name: str, workload: Workload, cluster: Cluster) -> _Setting:
    if name == TIGHT_MEMORY:
        cluster = with_memory(cluster, ROOM * _memory_on_one(workload) / len(cluster.devices))
    every_device = name == EVERY_DEVICE
    return _Setting(
        name,
        workload,
        cluster,
        place_candidates(workload, cluster, every_device=every_device)[:MAX_CANDIDATES],
        DenseBySamples(workload, cluster, every_device),
        [
            DenseBySamples(workload, drop_devices(cluster, [device.name]), every_device)
            for device in cluster.devices
        ],
    )


def _memory_on_one(workload: Workload) -> float:
    """Bytes of the dense step on a single device."""
    alone = place_round_robin(workload.partition, workload.num_microbatches, 1)
    return float(dense_bytes(workload, Replica(alone))[0])


def _rows(
    setting: _Setting, scores_name: str, scores: Scores, fractions: Sequence[float]
) -> Iterator[StudyRow]:
    deployments = [
        deploy(setting.workload, setting.cluster, result.placement) for result in setting.candidates
    ]
    searches = target_searches(deployments, scores)
    for fraction in fractions:
        target_s = fraction * setting.candidates[0].dense_step_s

        def row(
            method: str,
            step_s: float,
            retained: float,
            samples: float,
            num_devices: int,
            note: str = "",
            fraction: float = fraction,
            target_s: float = target_s,
        ) -> StudyRow:
            return StudyRow(
                setting.cluster.name, setting.name, scores_name, fraction, target_s,
                method, step_s, retained, samples, num_devices, note,
            )  # fmt: skip

        try:
            plan = best_plan(searches, target_s)
        except InputError as error:
            yield row("plan", np.nan, 0.0, 0.0, 0, str(error))
            continue
        dense_value = float(scores.values()[..., Operation.FULL].sum())
        used = len(set(plan.placement.subnet_device))
        yield row(
            "plan", simulate_plan(plan).step_s, plan.solver.objective / dense_value, 1.0, used,
            "aligned" if plan.budget.patterns == 1 else "",
        )  # fmt: skip
        step_s, retained = _random_within(scores, plan)
        yield row("random within the plan's capacities", step_s, retained / dense_value, 1.0, used)
        yield row(
            "dense, fewer samples", *_dense(setting.dense, scores, target_s, setting.workload)
        )
        others = [
            (_dense(other, scores, target_s, setting.workload), device.name)
            for other, device in zip(setting.fewer_devices, setting.cluster.devices, strict=True)
        ]
        best, name = max(others, key=lambda pair: pair[0][1])
        yield row("dense without a device, fewer samples", *best, f"without {name}")
        fewer = fewer_microbatches(plan, scores, target_s)
        found = (np.nan, 0.0, 0.0)
        if fewer:
            found = (fewer.prediction.step_s, fewer.retained_score, fewer.samples_fraction)
        yield row("fewer micro-batches, placed as the plan", *found, used)


def _dense(
    dense: DenseBySamples, scores: Scores, target_s: float, workload: Workload
) -> tuple[float, float, float, int]:
    """Step time, retained score, share of the samples and devices of dense on fewer samples."""
    full = workload.microbatch_samples
    samples = dense.most_samples(target_s)
    if not samples:
        return np.nan, 0.0, 0.0, 0
    found = dense.at(samples)
    assert found
    return (
        found.dense_step_s,
        retained_by_samples(scores, samples, full),
        sum(samples) / sum(full),
        found.num_active,
    )


def _random_within(scores: Scores, plan: Plan) -> tuple[float, float]:
    """Step time and objective of a random schedule that spends what the plan may."""
    formulation = formulate(plan, scores, plan.budget)
    solution = solve_formulation(formulation, "random")
    assert solution.schedule is not None
    step = simulate_step(plan, solution.schedule)
    return step.step_s, solution.objective


def study_table(rows: Iterable[StudyRow]) -> pd.DataFrame:
    """One line per row of the study, columns as its fields."""
    return pd.DataFrame([asdict(row) for row in rows])
