"""Warm start of the classifier: logistic regression on the features of the frozen model."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from runtime.data.image_data import Split
from runtime.data.minibatches import normalize
from runtime.models import normalization_of

_L2 = 1e-2
_MAX_ITERATIONS = 200


def fit_classifier(model: VisionTransformer, split: Split, batch_size: int = 128) -> float:
    """Set the classifier's weights to those of a regularised logistic regression.

    Args:
        model: on the device of `split`; only its classifier changes.
        split: pictures to fit on.
        batch_size: pictures per forward pass.

    Returns:
        Top-1 accuracy on `split`.
    """
    features = pooled_features(model, split, batch_size)
    weight, bias, accuracy = fit_linear(features, split.labels, model.num_classes)
    with torch.no_grad():
        head: Any = model.head
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return accuracy


def fit_linear(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, float]:
    """Weight ``[num_classes, width]``, bias and accuracy of a regularised logistic regression.

    Args:
        features: ``[num_samples, width]``.
        labels: int64 ``[num_samples]``, on the same device.
        num_classes: at least one more than the highest label.
    """
    features = features.double()
    centre, spread = features.mean(0), features.std(0).mean()
    features = (features - centre) / spread
    weight = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    weight = weight.to(features.device).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weight.t() + bias, labels)
        value = value + _L2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        accuracy = (features @ weight.t() + bias).argmax(1).eq(labels).double().mean()
        return weight / spread, bias - (weight / spread) @ centre, float(accuracy)


@torch.no_grad()
def pooled_features(model: VisionTransformer, split: Split, batch_size: int = 128) -> Tensor:
    """What the classifier sees, ``[num_samples, width]``."""
    was_training = model.training
    model.eval()
    mean, std = normalization_of(model)
    parts = [
        model.forward_head(model.forward_features(normalize(images, mean, std)), pre_logits=True)
        for images in split.images.split(batch_size)
    ]
    model.train(was_training)
    return torch.cat(parts)
