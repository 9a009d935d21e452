"""Predicted costs of the steps of a recipe."""

from dataclasses import replace

import numpy as np

from analysis.studying.study_recipe import Recipe, naive_placement
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.errors import InputError
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from d2ft_sched.schedule.schedule import uniform_schedule
from sim.dense.data_parallel import DataParallelSteps
from sim.prediction import Prediction
from sim.step import simulate_step


class StepCosts:
    """Predictions of a recipe's steps, each different one simulated once."""

    def __init__(self, recipe: Recipe, workload: Workload) -> None:
        self._recipe, self._workload = recipe, workload
        self._known: dict[bytes, Prediction] = {}

    def of(self, schedule: np.ndarray) -> Prediction:
        """The step under a schedule."""
        recipe, workload = self._recipe, self._workload
        if recipe.placement is None:
            key = b""
        elif recipe.leave_out:
            number = int((schedule != Operation.SHORTCUT).any(axis=0).sum())
            key = str(number).encode()
        else:
            key = schedule.astype(np.int8).tobytes()
        if key not in self._known:
            if recipe.placement is None:
                self._known[key] = _best_data_parallel(workload, recipe.cluster)
            elif recipe.leave_out:
                fewer = replace(workload, microbatch_samples=workload.microbatch_samples[:number])
                dense = uniform_schedule(fewer.num_subnets, number, Operation.FULL)
                self._known[key] = simulate_step(fewer, recipe.cluster, recipe.placement, dense)
            else:
                self._known[key] = simulate_step(
                    workload, recipe.cluster, recipe.placement, schedule
                )
        return self._known[key]

    def dense(self) -> Prediction:
        """The dense step on all micro-batches that trains all parameters, in the recipe's placement
        or the naive one."""
        recipe, workload = self._recipe, replace(self._workload, lora=None)
        placement = recipe.placement
        if placement is None or len(placement.owner) != workload.num_microbatches:
            placement = naive_placement(workload, recipe.cluster)
        dense = uniform_schedule(workload.num_subnets, workload.num_microbatches, Operation.FULL)
        return simulate_step(workload, recipe.cluster, placement, dense)


def _best_data_parallel(workload: Workload, cluster: Cluster) -> Prediction:
    found = DataParallelSteps(workload, cluster).best()
    if found is None:
        raise InputError(
            f"cluster {cluster.name!r}: no device's memory holds {workload.shape.name} whole, "
            f"which the method data_parallel needs; leave it out or give a device more memory"
        )
    return found.prediction
