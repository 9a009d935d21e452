"""Scores for schedules that follow them: of all mini-batches, or as training sees them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.console.progress import TerminalProgress
from analysis.finetuning.finetune_request import FineTuneRequest
from d2ft_sched.problem.running_scores import nothing_seen
from d2ft_sched.problem.scores import Scores
from runtime.data.dataset import Dataset
from runtime.data.minibatches import epoch_order
from runtime.models.build import has_class_labels
from runtime.models.linear_probe import fit_classifier
from runtime.ranks.agreement import sum_arrays, together
from runtime.ranks.job import Ranks
from runtime.scoring.score_file import load_minibatch_scores, save_minibatch_scores
from runtime.scoring.score_kinds import weight_magnitude
from runtime.scoring.seen_scores import SeenScores
from runtime.scoring.training_scores import scoring_flops, training_scores
from runtime.training.events import Event, Probed, Scored

FILE = "scores.safetensors"
"""Beside the checkpoints of a training."""


@dataclass(frozen=True)
class MinibatchScores:
    """Scores of every mini-batch, and what was done for them before training."""

    scores: Sequence[Scores]
    events: tuple[Event, ...]


def seen_scores(
    request: FineTuneRequest,
    ranks: Ranks,
    model: Any,
    num_minibatches: int,
    resumed: Path | None,
) -> SeenScores:
    """Running scores of a training that begins, or as its checkpoint has them.

    Args:
        request: what was asked for, checked.
        ranks: that train together.
        model: whole on rank 0 of a training that begins.
        num_minibatches: of an epoch.
        resumed: the checkpoint that a training goes on from.

    Raises:
        InputError: the scores of the checkpoint cannot be read.
    """
    workload = request.plan.workload
    order = [
        epoch_order(num_minibatches, epoch, request.settings.seed)
        for epoch in range(1, request.settings.num_epochs + 1)
    ]
    forward = np.zeros(workload.num_subnets)
    if not resumed:
        if ranks.rank == 0:
            forward = weight_magnitude(model, workload)
        forward = sum_arrays(ranks, forward, "the sharing of scores")
    running = nothing_seen(
        forward, num_minibatches, workload.num_microbatches, request.settings.seed
    )
    seen = SeenScores(running, np.concatenate(order))
    if resumed:
        together(ranks, lambda: seen.load(resumed), "the reading of scores")
    return seen


def score_minibatches(
    request: FineTuneRequest,
    ranks: Ranks,
    model: Any,
    data: Dataset,
    num_minibatches: int,
    resumed: Path | None,
    progress: TerminalProgress,
) -> MinibatchScores:
    """Fit the classifier and score every mini-batch with the whole model, on the first rank.

    The other ranks get the scores mini-batch by mini-batch. A training that goes on reads those of
    its beginning, for the model has changed since.

    Args:
        request: what was asked for, checked.
        ranks: that train together.
        model: whole on rank 0 of a training that begins; it is taken to the rank's device.
        data: all pictures there.
        num_minibatches: of an epoch.
        resumed: the checkpoint that a training goes on from.
        progress: shows how far it is.

    Raises:
        InputError: the scores of the beginning cannot be read.
    """
    workload = request.plan.workload
    shape = (num_minibatches, workload.num_subnets, workload.num_microbatches)
    kinds = request.forward_score, request.backward_score
    path = request.checkpoint_dir / FILE
    if resumed:
        source = resumed.parent / FILE

        def load() -> list[Scores]:
            scores = load_minibatch_scores(source, shape, kinds)
            if ranks.rank == 0 and os.path.realpath(source) != os.path.realpath(path):
                save_minibatch_scores(path, scores, kinds)
            return scores

        return MinibatchScores(together(ranks, load, "the reading of scores"), ())
    events: list[Event] = []
    is_first = ranks.rank == 0
    if is_first:
        model.to(ranks.device)
    if is_first and request.settings.linear_probe and has_class_labels(workload.shape.name):
        start = time.perf_counter()
        top1 = fit_classifier(model, data.train.to(ranks.device))
        events.append(Probed(top1, time.perf_counter() - start))
    start = time.perf_counter()
    own = None
    if is_first:
        own = training_scores(
            model,
            data,
            workload,
            request.settings.seed,
            ranks.device,
            forward_score=kinds[0],
            backward_score=kinds[1],
        )
    scores = []
    with progress.stage("Score the mini-batches") as tell:
        for index in range(num_minibatches):
            tables = np.zeros((2, *shape[1:]))
            if own is not None:
                one = next(own)
                tables = np.stack([one.forward, one.backward])
            scores.append(Scores(*sum_arrays(ranks, tables, "the sharing of scores")))
            tell(index + 1, num_minibatches)
    seconds = time.perf_counter() - start

    def save() -> None:
        if is_first:
            save_minibatch_scores(path, scores, kinds)

    together(ranks, save, "the writing of scores")
    if is_first:
        flops = scoring_flops(model, workload, *kinds) * num_minibatches
        events.append(Scored(num_minibatches, *kinds, flops=float(flops), seconds=seconds))
    return MinibatchScores(scores, tuple(events))
