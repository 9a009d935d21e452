"""The loss of a family whose models put every sample into a class."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOP = 5
"""How many of the highest logits are looked at for the second accuracy, as is usual."""


class Outcome(NamedTuple):
    """What a model makes of some samples, without graph.

    Attributes:
        loss: sum of the losses that count.
        num_right: how many of them belong to what was foretold right.
        of_classes: of samples in classes, how many of each class were put there, and last how many
            of all had their class among the five highest logits, int64 ``[num_classes + 1]``; None
            of tokens.
    """

    loss: Tensor
    num_right: Tensor
    of_classes: Tensor | None = None


class ClassLoss:
    """The methods of `runtime.families.family.ModelFamily` that say what is learned: cross-entropy
    of a linear classifier, one for each sample."""

    has_class_labels = True

    def classifier(self, model: nn.Module) -> nn.Linear:
        raise NotImplementedError

    def num_counted(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels)

    def loss(
        self, model: nn.Module, features: Tensor, labels: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        logits = self.classifier(model)(features)
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)

    @torch.no_grad()
    def outcome(self, model: nn.Module, features: Tensor, labels: Tensor) -> Outcome:
        logits = self.classifier(model)(features)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        num_classes = logits.shape[1]
        is_right = logits.argmax(1) == labels
        among = logits.topk(min(TOP, num_classes)).indices.eq(labels[:, None]).sum()
        right = labels[is_right].bincount(minlength=num_classes)
        return Outcome(loss, is_right.sum(), torch.cat([right, among[None]]))

    def random_labels(self, model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        num_classes = self.classifier(model).out_features
        return torch.randint(num_classes, (len(inputs),), generator=generator)
