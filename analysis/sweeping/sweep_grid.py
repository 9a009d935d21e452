"""The grid of a sweep: settings (what a mini-batch runs on), and points (budget and solver)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from analysis.names.placement_names import PlacementName
from analysis.planning.request import parse_heads
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.cluster.cluster_file import cluster_to_dict
from d2ft_sched.errors import InputError
from d2ft_sched.files.provenance import PACKAGES, provenance
from d2ft_sched.files.sizes import MOST_POINTS, check_at_most
from d2ft_sched.model.lora import Lora
from d2ft_sched.model.partition import Partition, partition_by_heads
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.budget import Budget
from d2ft_sched.problem.scores import Scores, load_scores, uniform_scores
from d2ft_sched.solvers.registry import required_options
from sim.questions.what_if import scale_bandwidth, scale_compute


@dataclass(frozen=True)
class Axes:
    """Values of every axis of a grid; the grid is their product.

    Attributes:
        clusters: as their files say.
        bandwidth_scales: factors on the bandwidth of all links.
        compute_scales: factors on the speed of all devices.
        heads_per_subnet: as ``--heads-per-subnet`` takes each.
        num_microbatches: into which the mini-batch is cut.
        compute, communication, memory: budgets, fractions of the dense run.
        solvers: names that `d2ft_sched.solvers.registry` knows.
    """

    clusters: Sequence[Cluster]
    bandwidth_scales: Sequence[float]
    compute_scales: Sequence[float]
    heads_per_subnet: Sequence[str]
    num_microbatches: Sequence[int]
    compute: Sequence[float]
    communication: Sequence[float]
    memory: Sequence[float]
    solvers: Sequence[str]


@dataclass(frozen=True)
class Common:
    """What all points of a grid share.

    Attributes:
        shape: the model.
        minibatch_samples: dealt to the micro-batches as evenly as they allow.
        scores_file: of the only number of micro-batches; with several groupings of heads, of
            subnets of one head each. None to let everything count alike.
        lora, element_bytes, frozen_bytes: see `d2ft_sched.model.workload.Workload`.
        placement: how every setting is placed.
        num_waves, per_block, seed, time_limit_s: as for `d2ft_sched.plan.planning.make_plan`.
    """

    shape: ModelShape
    minibatch_samples: int
    scores_file: Path | None = None
    lora: Lora | None = None
    element_bytes: int = 4
    frozen_bytes: int = 4
    placement: PlacementName = PlacementName.BALANCED
    num_waves: int = 1
    per_block: bool = True
    seed: int = 0
    time_limit_s: float | None = None


@dataclass(frozen=True, eq=False)
class Setting:
    """A workload on a cluster, with the values of the axes that it stands for."""

    workload: Workload
    cluster: Cluster
    scores: Scores
    heads_per_subnet: str
    bandwidth_scale: float
    compute_scale: float
    common: Common

    @property
    def facts(self) -> dict[str, Any]:
        """All that its rows depend on, as plain values."""
        scores = hashlib.sha256(
            np.ascontiguousarray([self.scores.forward, self.scores.backward]).tobytes()
        )
        common = self.common
        return {
            "d2ft": provenance(0)[f"{PACKAGES[0]}_version"],
            "shape": asdict(self.workload.shape),
            "heads": self.heads_per_subnet,
            "lora": asdict(common.lora) if common.lora else None,
            "element_bytes": common.element_bytes,
            "frozen_bytes": common.frozen_bytes,
            "samples": self.workload.microbatch_samples,
            "cluster": cluster_to_dict(self.cluster),
            "scales": [self.bandwidth_scale, self.compute_scale],
            "scores": scores.hexdigest(),
            "placement": common.placement.value,
            "num_waves": common.num_waves,
        }

    @cached_property
    def key(self) -> str:
        """Digest of `facts`."""
        return _digest(self.facts)


@dataclass(frozen=True)
class Point:
    """A budget and a solver in a setting; `key` tells it from every other point."""

    setting: Setting
    budget: Budget
    solver: str
    key: str


def grid_points(axes: Axes, common: Common) -> list[Point]:
    """All points in the order of the axes, those of one setting together.

    Raises:
        InputError: a value does not fit, before anything is run; the line names it.
    """
    num_points = prod(len(getattr(axes, field.name)) for field in fields(axes))
    check_at_most(f"{num_points} points of the grid", num_points, MOST_POINTS, "give fewer values")
    if common.scores_file and len(axes.num_microbatches) > 1:
        raise InputError(
            f"--scores {common.scores_file} is of one number of micro-batches; --microbatches has "
            f"{', '.join(map(str, axes.num_microbatches))}"
        )
    for name in axes.solvers:
        unknown = set(required_options(name)) - {"block"}
        if unknown:
            raise InputError(
                f"--solvers has {name!r}, which needs {', '.join(sorted(unknown))}; a sweep has "
                f"none"
            )
    if common.num_waves > min(axes.num_microbatches):
        raise InputError(
            f"--waves is {common.num_waves}; it must be at most the micro-batches, of which "
            f"--microbatches has {min(axes.num_microbatches)}"
        )
    budgets = [
        Budget(compute, communication, memory=memory, per_block=common.per_block)
        for compute, communication, memory in product(axes.compute, axes.communication, axes.memory)
    ]
    points = []
    for setting in _settings(axes, common):
        for budget, solver in product(budgets, axes.solvers):
            facts = [setting.key, asdict(budget), solver, common.seed, common.time_limit_s]
            points.append(Point(setting, budget, solver, _digest(facts)))
    return points


def _settings(axes: Axes, common: Common) -> list[Setting]:
    settings = []
    names = [cluster.name for cluster in axes.clusters]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two clusters are called {name!r}; their names must differ")
    for cluster, bandwidth, compute in product(
        axes.clusters, axes.bandwidth_scales, axes.compute_scales
    ):
        scaled = scale_compute(scale_bandwidth(cluster, bandwidth), compute)
        for heads, num in product(axes.heads_per_subnet, axes.num_microbatches):
            partition = partition_by_heads(common.shape, parse_heads(heads))
            workload = Workload(
                common.shape,
                partition,
                _samples(common, num),
                common.element_bytes,
                lora=common.lora,
                frozen_bytes=common.frozen_bytes,
            )
            scores = _scores(axes, common, partition, num)
            settings.append(Setting(workload, scaled, scores, heads, bandwidth, compute, common))
    return settings


def _samples(common: Common, num_microbatches: int) -> tuple[int, ...]:
    least, more = divmod(common.minibatch_samples, num_microbatches)
    if not least:
        raise InputError(
            f"--minibatch-size is {common.minibatch_samples}; {num_microbatches} micro-batches "
            f"need a sample each"
        )
    return tuple(least + (i < more) for i in range(num_microbatches))


def _scores(axes: Axes, common: Common, partition: Partition, num_microbatches: int) -> Scores:
    if common.scores_file is None:
        return uniform_scores(len(partition), num_microbatches)
    if len(axes.heads_per_subnet) == 1:
        return load_scores(common.scores_file, len(partition), num_microbatches)
    shape = common.shape
    single = load_scores(common.scores_file, shape.num_blocks * shape.num_heads, num_microbatches)
    return _of_groups(single, partition)


def _of_groups(single: Scores, partition: Partition) -> Scores:
    """Scores of subnets as the sums of those of their heads, each given as a subnet of its own."""
    rows = [
        [subnet.block * partition.num_heads + head for head in subnet.heads]
        for subnet in partition.subnets
    ]
    return Scores(
        np.stack([single.forward[row].sum(axis=0) for row in rows]),
        np.stack([single.backward[row].sum(axis=0) for row in rows]),
    )


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
