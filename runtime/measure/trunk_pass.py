"""What a step does besides lanes and the update: embedding, norms, residual sums, classifier."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from runtime.families.known_families import family_of
from runtime.families.sublayer import Sublayer
from runtime.lanes.slices import SublayerLanes, Wave
from runtime.partitioned_step import features, run_lanes
from runtime.torch_device import Stopwatch

NO_LANES = SublayerLanes(0, (), (), True, (), (), (), (), ())


def run_trunk(
    model: nn.Module, inputs: Tensor, labels: Tensor, wave: Wave, watch: Stopwatch
) -> None:
    """Forward and backward of one wave in which lanes hand on what they are given.

    Norms run where the wave has lanes. Parameters get no gradients.

    Args:
        model: one that `runtime.models.build.check_supported` accepts.
        inputs, labels: of the wave's samples.
        wave: who would run on which of them.
        watch: laps "start", "forward" and "backward" are added to it.
    """
    family = family_of(model)
    watch.lap("start")
    loss = family.loss(model, features(model, inputs, wave, _hand_on), labels)
    watch.lap("forward")
    torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    watch.lap("backward")


def _hand_on(
    sublayer: Sublayer, lanes: SublayerLanes, x: Tensor, key_mask: Tensor | None
) -> Tensor:
    return cast(Tensor, _HandOn.apply(x, run_lanes(sublayer, NO_LANES, x, key_mask)))


class _HandOn(torch.autograd.Function):
    """The second of two tensors of one shape; its gradient is that of both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor) -> Tensor:
        return branch.view_as(branch)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad
