"""Scores of every mini-batch that fine-tuning will go through, before it starts."""

from collections.abc import Iterator

import torch
from timm.models.vision_transformer import VisionTransformer

from d2ft_sched.scores import Scores
from d2ft_sched.workload import Workload
from runtime.data.image_data import ImageData
from runtime.data.minibatches import normalize
from runtime.finetune import training_minibatches
from runtime.models import normalization_of
from runtime.scores import score_minibatch


def training_scores(
    model: VisionTransformer,
    data: ImageData,
    workload: Workload,
    seed: int,
    device: torch.device,
    num_minibatches: int | None = None,
) -> Iterator[Scores]:
    """Scores of the mini-batches that `runtime.finetune.fine_tune` draws with the same seed.

    Each costs about one dense step.

    Args:
        model: on `device`, as it is before training.
        data: pictures.
        workload: subnets and micro-batches.
        seed: of the fine-tuning.
        device: where the model is.
        num_minibatches: only the first of them; default all.
    """
    mean, std = normalization_of(model)
    for samples in training_minibatches(data.train, workload, seed)[:num_minibatches]:
        chosen = torch.from_numpy(samples)
        images = normalize(data.train.images[chosen].to(device), mean, std)
        yield score_minibatch(model, images, data.train.labels[chosen].to(device), workload)
