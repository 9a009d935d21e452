"""The loss of a family whose models put every sample into a class."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Outcome(NamedTuple):
    """What a model makes of some samples, scalars without graph.

    Attributes:
        loss: sum of the losses that count.
        num_right: how many of them belong to what was foretold right.
    """

    loss: Tensor
    num_right: Tensor


class ClassLoss:
    """The methods of `runtime.families.family.ModelFamily` that say what is learned: cross-entropy
    of a linear classifier, one for each sample."""

    has_class_labels = True

    def classifier(self, model: nn.Module) -> nn.Linear:
        raise NotImplementedError

    def num_counted(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels)

    def loss(self, model: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.classifier(model)(features), labels, reduction="sum")

    @torch.no_grad()
    def outcome(self, model: nn.Module, features: Tensor, labels: Tensor) -> Outcome:
        logits = self.classifier(model)(features)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return Outcome(loss, logits.argmax(1).eq(labels).sum())

    def random_labels(self, model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        num_classes = self.classifier(model).out_features
        return torch.randint(num_classes, (len(inputs),), generator=generator)
