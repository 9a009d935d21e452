"""Dense steps that savings are held against, predicted and measured on the ranks of a job."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.validating.plans_tried import Measured, validation_table
from d2ft_sched.cluster.cluster import Cluster
from d2ft_sched.model.workload import Workload
from runtime.measure.rank_baselines import measure_alone, measure_tensor_parallel
from runtime.measure.rank_step_times import RankStepMeasurement
from runtime.ranks.job import Ranks
from sim.dense_baselines import dense_step_alone, tensor_parallel_heads, tensor_parallel_step


def rank_baselines(
    build: Callable[[], Any],
    workload: Workload,
    cluster: Cluster,
    ranks: Ranks,
    *,
    num_repeats: int,
) -> pd.DataFrame:
    """Tensor parallelism on all ranks, and the untouched model on the first device alone.

    Adapters train on the first device alone; there is no tensor parallelism of them here.

    Args:
        build: the model, with the adapters that train, if any: whole on rank 0, on the meta device
            on others.
        workload: model, mini-batch and optimizer.
        cluster: whose devices are the ranks.
        ranks: all of which call this.
        num_repeats: timed steps of each.

    Returns:
        Rows like those of `analysis.validating.plans_tried.validation_table`, the same on all
        ranks.
    """
    alone = f"untouched model, {cluster.devices[0].name} alone"
    predicted, measured = {}, {}
    if workload.lora is None:
        parallel = "tensor parallel, ring all-reduce"
        num_heads = tensor_parallel_heads(workload, cluster)
        members = np.flatnonzero(num_heads)
        said = tensor_parallel_step(workload, cluster)
        of_members = {purpose: values[members] for purpose, values in vars(said.memory).items()}
        predicted[parallel] = replace(said, memory=replace(said.memory, **of_members))
        run = measure_tensor_parallel(
            build(), workload, num_heads.tolist(), ranks, num_repeats=num_repeats
        )
        measured[parallel] = _measured(run, members)
    at_once = replace(workload, microbatch_samples=(int(workload.samples.sum()),))
    predicted[alone] = dense_step_alone(at_once, cluster.devices[0])
    run = measure_alone(build(), workload, ranks, num_repeats=num_repeats)
    measured[alone] = _measured(run, np.array([0]))
    return validation_table(predicted, measured)


def _measured(run: RankStepMeasurement, takes_part: np.ndarray) -> Measured:
    """A run as the ranks saw it that took part."""
    return Measured(
        step_s=run.step_s,
        step_spread_s=run.step_spread_s,
        phase_s={},
        flops=run.flops,
        pair_bytes=run.pair_bytes,
        peak_memory_bytes=run.peak_memory_bytes[takes_part],
    )
