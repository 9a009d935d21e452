"""Warm start of the classifier: logistic regression on the features of the frozen model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.data.dataset import Samples, Wanted, runs
from runtime.families.known_families import family_of

_L2 = 1e-2
_MAX_ITERATIONS = 200


def fit_classifier(model: nn.Module, split: Samples, batch_size: int = 128) -> float:
    """Set the classifier's weights to those of a regularised logistic regression.

    Args:
        model: on the device of `split`; only its classifier changes.
        split: samples to fit on.
        batch_size: samples per forward pass.

    Returns:
        Top-1 accuracy on `split`.
    """
    features = pooled_features(model, split, batch_size)
    classifier = family_of(model).classifier(model)
    weight, bias, accuracy = fit_linear(features, split.labels, classifier.out_features)
    set_classifier(classifier, weight, bias)
    return accuracy


@torch.no_grad()
def set_classifier(classifier: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Copy what `fit_linear` found."""
    classifier.weight.copy_(weight.view_as(classifier.weight))
    classifier.bias.copy_(bias)


def fit_linear(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, float]:
    """Weight ``[num_classes, width]``, bias and accuracy of a regularised logistic regression.

    Args:
        features: ``[num_samples, width]``.
        labels: int64 ``[num_samples]``, on the same device.
        num_classes: at least one more than the highest label.
    """
    features = features.double()
    centre, spread = features.mean(0), features.new_ones(())
    if (features != features[0]).any():
        spread = features.std(0).mean()
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
def pooled_features(model: nn.Module, split: Samples, batch_size: int = 128) -> Tensor:
    """What the classifier sees, ``[num_samples, width]``."""
    was_training, family = model.training, family_of(model)
    try:
        model.eval()
        every = list(runs(len(split), batch_size))
        parts = [
            family.whole_features(model, family.to_inputs(model, batch.of(rows)))
            for rows, batch in zip(every, split.read(map(Wanted, every)), strict=True)
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts)
