"""Scores of every mini-batch that fine-tuning will go through, before it starts."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from d2ft_sched.model.workload import Workload
from d2ft_sched.problem.scores import Scores
from runtime.data.dataset import Dataset, Wanted
from runtime.families.known_families import family_of
from runtime.measure.flop_counting import count_flops
from runtime.scoring.minibatch_scores import score_minibatch
from runtime.training.loop import training_minibatches

FORWARD_SCORE, BACKWARD_SCORE = "weight_magnitude", "fisher_of_microbatches"


def training_scores(
    model: nn.Module,
    data: Dataset,
    workload: Workload,
    seed: int,
    device: torch.device,
    num_minibatches: int | None = None,
    *,
    chosen: Sequence[int] | None = None,
    forward_score: str = FORWARD_SCORE,
    backward_score: str = BACKWARD_SCORE,
) -> Iterator[Scores]:
    """Scores of the mini-batches that `runtime.training.loop.fine_tune` draws with the same seed,
    as its first epoch has them; later ones exchange samples in at most two of them.

    What each costs is said by `scoring_flops`.

    Args:
        model: on `device`, as it is before training.
        data: samples.
        workload: subnets and micro-batches.
        seed: of the fine-tuning.
        device: where the model is.
        num_minibatches: only the first of them; default all.
        chosen: only these of them, by index; default all.
        forward_score, backward_score: names of `runtime.scoring.score_kinds.score_names`.
    """
    family = family_of(model)
    minibatches = training_minibatches(data.train, workload, seed).of_epoch(1)[:num_minibatches]
    if chosen is not None:
        minibatches = minibatches[list(chosen)]
    read = data.train.read(map(Wanted, minibatches))
    for samples, batch in zip(minibatches, read, strict=True):
        inputs = family.to_inputs(model, batch.of(samples).to(device))
        yield score_minibatch(
            model,
            inputs,
            data.train.labels[torch.from_numpy(samples)].to(device),
            workload,
            forward_score=forward_score,
            backward_score=backward_score,
        )


def scoring_flops(
    model: nn.Module, workload: Workload, forward_score: str, backward_score: str
) -> int:
    """FLOPs of scoring one mini-batch, counted operator by operator; its gradients are discarded.

    Args:
        model: on any device.
        workload: subnets and micro-batches.
        forward_score, backward_score: names of `runtime.scoring.score_kinds.score_names`.
    """
    device = next(model.parameters()).device
    num_samples = int(workload.samples.sum())
    family, generator = family_of(model), torch.Generator()
    inputs = family.random_inputs(model, num_samples, generator)
    labels = family.random_labels(model, inputs, generator).to(device)
    inputs = inputs.to(device)
    score = partial(score_minibatch, forward_score=forward_score, backward_score=backward_score)
    return count_flops(lambda: score(model, inputs, labels, workload))
