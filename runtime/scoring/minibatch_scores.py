"""Contribution scores of subnets from the model itself, for samples and for micro-batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from runtime.scoring.score_kinds import score_kind
from runtime.scoring.score_pass import trace_blocks


def score_samples(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    workload: Workload,
    names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Scores of every subnet on every sample, by name, float ``[num_subnets, num_samples]``.

    All come from one forward pass, and at most one backward pass without weight gradients; scores
    of `runtime.scoring.score_kinds` that know no samples are left out.

    Args:
        model: its gradients stay as they are.
        inputs: as the model takes them, ``[num_samples, ...]``.
        labels: int64 ``[num_samples]``.
        workload: subnets.
        names: of `runtime.scoring.score_kinds.score_names`.
    """
    kinds = {name: score_kind(name) for name in names}
    functions = {name: kind.of_samples for name, kind in kinds.items() if kind.of_samples}
    if not functions:
        return {}
    backward = any(kinds[name].backward for name in functions)
    traces = trace_blocks(model, inputs, labels, backward=backward)
    with torch.no_grad():
        return {
            name: torch.stack(
                [score(traces[s.block], s, workload.shape) for s in workload.partition.subnets]
            )
            .double()
            .cpu()
            .numpy()
            for name, score in functions.items()
        }


def mean_over_microbatches(table: np.ndarray, workload: Workload) -> np.ndarray:
    """From ``[num_subnets, num_samples]`` to means, ``[num_subnets, num_microbatches]``."""
    starts = np.cumsum([0, *workload.microbatch_samples[:-1]])
    return np.add.reduceat(table, starts, axis=1) / workload.samples


def score_minibatch(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    workload: Workload,
    *,
    forward_score: str = "weight_magnitude",
    backward_score: str = "fisher_of_microbatches",
) -> Scores:
    """Both scores of every subnet on every micro-batch.

    Args:
        model: its gradients are discarded.
        inputs: as the model takes them, ``[num_samples, ...]``, micro-batch after micro-batch.
        labels: int64 ``[num_samples]``.
        workload: subnets and micro-batch sizes.
        forward_score, backward_score: names of `runtime.scoring.score_kinds.score_names`.

    Raises:
        InputError: an unknown name.
    """
    names = (forward_score, backward_score)
    tables = {
        name: mean_over_microbatches(table, workload)
        for name, table in score_samples(model, inputs, labels, workload, names).items()
    }
    for name in names:
        kind = score_kind(name)
        if kind.of_subnets:
            own = kind.of_subnets(model, workload)
            tables[name] = np.repeat(own[:, None], workload.num_microbatches, axis=1)
        elif kind.of_microbatches:
            tables[name] = kind.of_microbatches(model, inputs, labels, workload)
    return Scores(tables[forward_score], tables[backward_score])


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Mean over mini-batches, for a schedule that serves them all."""
    return Scores(
        np.mean([s.forward for s in scores], axis=0),
        np.mean([s.backward for s in scores], axis=0),
    )
