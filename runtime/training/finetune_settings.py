"""How to fine-tune: one frozen value for the loop and for all trainers."""

import math
from dataclasses import dataclass
from typing import Literal

from d2ft_sched.errors import InputError


@dataclass(frozen=True)
class FineTuneSettings:
    """How to fine-tune; the optimizer is the workload's.

    Attributes:
        num_epochs: passes through the mini-batches.
        lr: peak learning rate.
        weight_decay: of matrices; norms, biases and a ViT's positions do not decay.
        layer_decay: factor of the learning rate from each layer to the one before it, as timm has
            it; 1 for the same everywhere.
        lr_decay: ``cosine``, which would reach zero one step after the last, or ``constant``.
        warmup: share of all steps in which the learning rate rises linearly to its peak.
        clip_norm: largest norm of the gradients of a step, all parameters together; None for any.
        label_smoothing: share of each target that is spread evenly over all classes, or tokens.
        ema_decay: of the running average of weights, which is evaluated and kept in place of the
            weights; None for none.
        eval_every: steps from one evaluation to the next, beside those at the ends of epochs.
        half: type of products where the workload's precision has two bytes; with float16 the loss
            is scaled, and a step whose gradients overflow is left out.
        linear_probe: fit the classifier on frozen features first.
        recomputes: on one device, whether lanes run forward again in backward (gradient
            checkpointing); ranks know it from the plan's placement.
        num_waves: passes of a mini-batch.
        watch_scores: whether each step tells the scores of its operations.
        seed: of the drawing of mini-batches and of their order.
    """

    num_epochs: int = 3
    lr: float = 5e-5
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    lr_decay: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    eval_every: int | None = None
    half: Literal["bfloat16", "float16"] = "bfloat16"
    linear_probe: bool = True
    recomputes: bool = False
    num_waves: int = 1
    watch_scores: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_epochs < 1:
            raise InputError(f"number of epochs is {self.num_epochs}; it must be at least 1")
        if self.lr_decay not in ("cosine", "constant"):
            raise InputError(f"lr decay is {self.lr_decay!r}; it must be cosine or constant")
        if self.eval_every is not None and self.eval_every < 1:
            raise InputError(
                f"steps between evaluations are {self.eval_every}; there must be at least 1"
            )
        above_0 = "above 0 and finite"
        _check("learning rate", self.lr, 0 < self.lr < math.inf, above_0)
        _check("weight decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        _check("layer decay", self.layer_decay, 0 < self.layer_decay <= 1, "above 0, at most 1")
        _check("warm-up", self.warmup, 0 <= self.warmup <= 1, "a share of all steps, 0 to 1")
        clip, smoothing, decay = self.clip_norm, self.label_smoothing, self.ema_decay
        _check("norm of clipping", clip, clip is None or 0 < clip < math.inf, above_0)
        _check("label smoothing", smoothing, 0 <= smoothing < 1, "at least 0 and below 1")
        _check(
            "decay of the average of weights", decay, decay is None or 0 < decay < 1, "in (0, 1)"
        )


def learning_rate(settings: FineTuneSettings, step: int, num_steps: int) -> float:
    """Of the step with this index, counted from 0: timm's and torch's cosine after their warm-up,
    which begins above zero."""
    warmup_steps = round(settings.warmup * num_steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / (warmup_steps + 1)
    if settings.lr_decay == "constant":
        return settings.lr
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def is_evaluated(settings: FineTuneSettings, step: int, steps_per_epoch: int) -> bool:
    """Whether the model is evaluated when so many steps are done."""
    every = settings.eval_every
    return step % steps_per_epoch == 0 or (every is not None and step % every == 0)


def _check(name: str, value: float | None, is_right: bool, what: str) -> None:
    if not is_right:
        raise InputError(f"{name} is {value}; it must be {what}")
