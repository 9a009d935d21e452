"""What an evaluation adds up, in one tensor that ranks can sum."""

import time

import torch
from torch import Tensor, nn

from runtime.families.class_loss import Outcome
from runtime.families.family import ModelFamily
from runtime.training.events import Evaluated, Position, evaluated


class OutcomeTotals:
    """Sums over the outcomes of all test samples.

    Attributes:
        sums: float64; how many were right, the loss, and of classes what `Outcome.of_classes` says.
    """

    def __init__(self, family: ModelFamily, model: nn.Module, device: torch.device) -> None:
        self._family = family
        self._num_classes = 0
        if family.has_class_labels:
            self._num_classes = family.classifier(model).out_features
        num_more = self._num_classes + 1 if self._num_classes else 0
        self.sums = torch.zeros(2 + num_more, dtype=torch.float64, device=device)

    def add(self, outcome: Outcome) -> None:
        self.sums[0] += outcome.num_right
        self.sums[1] += outcome.loss
        if outcome.of_classes is not None:
            self.sums[2:] += outcome.of_classes

    def evaluated(self, at: Position, labels: Tensor, start_s: float) -> Evaluated:
        """What they say.

        Args:
            at: when it was.
            labels: of all test samples.
            start_s: when the evaluation began, by `time.perf_counter`.
        """
        num_right, loss, *of_classes = self.sums.tolist()
        num_of_class = []
        if self._num_classes:
            num_of_class = labels.bincount(minlength=self._num_classes).tolist()
        return evaluated(
            at,
            num_right=num_right,
            loss_sum=loss,
            of_classes=of_classes,
            num_of_class=num_of_class,
            num_samples=len(labels),
            num_counted=int(self._family.num_counted(labels).sum()),
            seconds=time.perf_counter() - start_s,
        )
