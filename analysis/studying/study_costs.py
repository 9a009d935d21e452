"""Predicted costs of the steps of a recipe."""

from dataclasses import replace

import numpy as np

from analysis.studying.study_drawn import ways_of
from analysis.studying.study_recipe import Recipe
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.costs.gradient_sums import gradient_sums
from d2ft_sched.deployment import deploy
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation, trains_in_step
from d2ft_sched.schedule.placement import Placement
from d2ft_sched.schedule.replica import Replica
from sim.prediction import Prediction
from sim.step import simulate_dense, simulate_step
from sim.ways.candidates import Candidate
from sim.ways.search import best_dense, search_ways
from sim.ways.way import WayKind


class StepCosts:
    """Predictions of a recipe's steps, each different one simulated once."""

    def __init__(self, recipe: Recipe, workload: Workload, everything: Workload) -> None:
        """Take a recipe and its workload, and the study's own, of which all parameters train."""
        self._recipe, self._workload, self._everything = recipe, workload, everything
        self._known: dict[bytes, Prediction] = {}

    def of(self, schedule: np.ndarray) -> Prediction:
        """The step under a schedule."""
        recipe, workload = self._recipe, self._workload
        if recipe.way is not None:
            key = schedule.astype(np.int8).tobytes()
        elif recipe.placement is None:
            key = b""
        elif recipe.leave_out:
            number = int((schedule != Operation.SHORTCUT).any(axis=0).sum())
            key = str(number).encode()
        else:
            key = schedule.astype(np.int8).tobytes()
        if key not in self._known:
            if recipe.way is not None:
                self._known[key] = _on_way(recipe.way, schedule)
            elif recipe.placement is None:
                self._known[key] = _best_data_parallel(workload, recipe.cluster)
            elif recipe.leave_out:
                fewer = replace(workload, microbatch_samples=workload.microbatch_samples[:number])
                deployment = deploy(fewer, recipe.cluster, recipe.placement)
                self._known[key] = simulate_dense(deployment)
            else:
                deployment = deploy(workload, recipe.cluster, recipe.placement)
                self._known[key] = simulate_step(deployment, schedule)
        return self._known[key]

    def dense(self) -> Prediction:
        """The dense step of the study's mini-batch that trains all parameters: on the best way
        where the recipe has one, in its placement where it has one, else in the naive one."""
        recipe, workload = self._recipe, self._everything
        placement = recipe.placement
        if recipe.way is not None:
            return simulate_dense(best_dense(ways_of(workload, recipe.cluster)))
        if placement is not None and len(placement.owner) != workload.num_microbatches:
            placement = None
        return simulate_dense(deploy(workload, recipe.cluster, placement))


def gradient_values(workload: Workload, schedule: np.ndarray) -> int:
    """Values whose gradients a step has to send where several copies of the model train."""
    num_devices = 2
    copies = [
        Replica(Placement(num_devices, (device,) * workload.num_subnets, (device,)))
        for device in range(num_devices)
    ]
    return sum(s.num_values for s in gradient_sums(workload, copies, schedule))


def described(way: Candidate, cluster: Cluster) -> str:
    """Devices of each replica and the samples that it runs, for tables."""
    names = (" + ".join(cluster.devices[d].name for d in group) for group in way.groups)
    return ", ".join(f"{who}: {n}" for who, n in zip(names, way.samples, strict=True))


def _on_way(way: Candidate, schedule: np.ndarray) -> Prediction:
    """The step on a way's replicas and samples, in which the same subnets train."""
    trains = trains_in_step(schedule)[:, None]
    operation = np.where(trains, Operation.FULL, Operation.REST)
    runs = way.schedule != Operation.SHORTCUT
    own = np.where(runs, operation, Operation.SHORTCUT).astype(np.int8)
    return simulate_step(way, own)


def _best_data_parallel(workload: Workload, cluster: Cluster) -> Prediction:
    """Of the model whole on each of some devices, or on one."""
    kinds = (WayKind.ONE_DEVICE, WayKind.DATA_PARALLEL)
    search = search_ways(workload, cluster, kinds=kinds)
    if not any(way.fits for way in search.ways):
        raise InputError(
            f"cluster {cluster.name!r}: no device's memory holds {workload.shape.name} whole, "
            f"which the method data_parallel needs; leave it out or give a device more memory"
        )
    return simulate_dense(best_dense(search))
