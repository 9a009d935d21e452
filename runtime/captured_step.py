"""A schedule's step on a CUDA device, recorded once as a CUDA graph and replayed.

What is recorded runs on the same memory again: inputs are copied to where they were, and gradients
stand where they stood. Loss and gradients are those of `runtime.partitioned_step.forward_backward`.
"""

from collections.abc import Callable

from torch import Tensor, nn

from runtime.torch_device import record

Step = Callable[[Tensor, Tensor], Tensor]
"""Adds gradients of inputs and labels to those of a model's parameters; the loss."""

RUNS_BEFORE = 2
"""Plain runs before a schedule is recorded: they tell one that stays from one that does not."""


class CapturedStep:
    """`step` of a model, of inputs and labels that always have one shape and one type."""

    def __init__(self, model: nn.Module, step: Step, inputs: Tensor, labels: Tensor) -> None:
        """Run `step` some times to warm up, record it, and leave the model without gradients."""
        self._inputs, self._labels = inputs.clone(), labels.clone()

        def run() -> Tensor:
            model.zero_grad()
            return step(self._inputs, self._labels)

        self._replay, self._loss = record(inputs.device, run)
        self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        model.zero_grad()

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss, valid until the next call; gradients of parameters, which had none."""
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self._replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss

    def takes(self, inputs: Tensor, labels: Tensor) -> bool:
        """Whether they are like those recorded."""
        return all(
            given.shape == own.shape and given.dtype == own.dtype
            for given, own in ((inputs, self._inputs), (labels, self._labels))
        )


class FixedStep:
    """`step` under a schedule that may stay: after `RUNS_BEFORE`, where a device can, replayed."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        self._model, self._step = model, step
        self._num_runs = 0
        self._captured: CapturedStep | None = None

    def __call__(self, inputs: Tensor, labels: Tensor, *, may_capture: bool) -> Tensor:
        """The loss; gradients are added to none, or to those that the parameters have."""
        self._num_runs += 1
        if not may_capture or inputs.device.type != "cuda" or self._num_runs <= RUNS_BEFORE:
            return self._step(inputs, labels)
        if self._captured is None:
            self._captured = CapturedStep(self._model, self._step, inputs, labels)
        if not self._captured.takes(inputs, labels):
            return self._step(inputs, labels)
        return self._captured(inputs, labels)
