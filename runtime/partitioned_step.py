"""A training step of a model under a schedule, on one device.

The model stays as it is: the step reads its parameters where they are and leaves their gradients
there. The trunk (embeddings, norms, LayerScale, output biases, classifier) always runs; heads and
hidden units run as the schedule says.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from runtime.families.known_families import family_of
from runtime.families.sublayer import Sublayer
from runtime.lanes.adapted_lanes import AdaptedMaps, adapted_lanes
from runtime.lanes.autograd import sublayer_lanes
from runtime.lanes.slices import ScheduleSlices, SublayerLanes, Wave
from runtime.torch_device import Stopwatch

RunLanes = Callable[[Sublayer, SublayerLanes, Tensor, Tensor | None], Tensor]
"""As `run_lanes`."""


def run_lanes(
    sublayer: Sublayer, lanes: SublayerLanes, x: Tensor, key_mask: Tensor | None
) -> Tensor:
    """`sublayer_lanes` of a sub-layer that is whole on this device, ``[B, N, D]``."""
    linears, bias_out = sublayer.linears(), sublayer.bias_out
    adapters = sublayer.adapters()
    if adapters is not None:
        maps = AdaptedMaps(linears, bias_out, sublayer.core)
        return adapted_lanes(x, maps, adapters, lanes, key_mask)
    return sublayer_lanes(x, linears, bias_out, sublayer.core, lanes, key_mask)


def features(model: nn.Module, inputs: Tensor, wave: Wave, run: RunLanes = run_lanes) -> Tensor:
    """What the classifier sees of one wave's inputs, ``[num_samples, ...]`` both.

    Args:
        model: one that `runtime.models.build.check_supported` accepts.
        inputs: of the wave's samples.
        wave: who runs on which of them.
        run: what stands for the lanes; another only to time what is around them.
    """
    family = family_of(model)
    x, key_mask = family.embed(model, inputs), family.key_mask(model, inputs)
    for (attention, mlp), lanes in zip(family.blocks(model), wave.blocks, strict=True):
        x = _sublayer(x, attention, lanes.attention, key_mask, run)
        x = _sublayer(x, mlp, lanes.mlp, key_mask, run)
    return family.features(model, x, inputs)


def forward(model: nn.Module, inputs: Tensor, wave: Wave) -> Tensor:
    """Logits of one wave's inputs ``[num_samples, ...]``, as `features` takes them."""
    return family_of(model).classifier(model)(features(model, inputs, wave))


def forward_backward(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    slices: ScheduleSlices,
    watch: Stopwatch | None = None,
    label_smoothing: float = 0.0,
    loss_scale: float = 1.0,
) -> Tensor:
    """Run one mini-batch and add its gradients to those of the parameters.

    The loss is the mean over all losses that count in the mini-batch, one for each sample or for
    each token, whatever the waves. Parameters of subnets that no micro-batch trains get no
    gradient. The trunk always gets one, zeros where nothing reaches it, unless it is frozen.

    Args:
        model: one that `runtime.models.build.check_supported` accepts.
        inputs: as the model takes them, ``[num_samples, ...]``, micro-batch after micro-batch.
        labels: int64 ``[num_samples]``, or ``[num_samples, num_tokens]``.
        slices: the schedule.
        watch: laps "forward" and "backward" are added to it.
        label_smoothing: share of each target that is spread evenly.
        loss_scale: factor of all gradients.

    Returns:
        The loss, a scalar without graph on the device of `inputs`.
    """
    family, losses = family_of(model), []
    counted = family.num_counted(labels)
    num_counted = torch.stack([wave.take(counted).sum() for wave in slices.waves]).sum()
    for wave in slices.waves:
        seen = features(model, wave.take(inputs), wave)
        total = family.loss(model, seen, wave.take(labels), label_smoothing)
        loss = total / num_counted.clamp_min(1)
        if watch is not None:
            watch.lap("forward")
        if loss.requires_grad:  # not where nothing trains but adapters, and none in this wave
            (loss_scale * loss).backward()
        if watch is not None:
            watch.lap("backward")
        losses.append(loss.detach())
    for parameter in trunk_parameters(model):
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return torch.stack(losses).sum()


def trunk_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Those of no subnet and of no adapter."""
    in_subnets = {
        id(parameter)
        for sublayers in family_of(model).blocks(model)
        for sublayer in sublayers
        for parameter in sublayer.parameters()
        if parameter is not sublayer.bias_out
    }
    return (p for p in model.parameters() if id(p) not in in_subnets)


def _sublayer(
    x: Tensor,
    sublayer: Sublayer,
    lanes: SublayerLanes,
    key_mask: Tensor | None,
    run: RunLanes,
) -> Tensor:
    if not sublayer.norm_first:
        return sublayer.norm(_add_branch(x, x, sublayer, lanes, key_mask, run))
    normed = x
    if lanes.run:
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(lanes.backward)):
            normed = sublayer.norm(x)
    return _add_branch(x, normed, sublayer, lanes, key_mask, run)


def _add_branch(
    x: Tensor,
    lane_input: Tensor,
    sublayer: Sublayer,
    lanes: SublayerLanes,
    key_mask: Tensor | None,
    run: RunLanes,
) -> Tensor:
    """``x + scale * (lanes(lane_input) + bias)``."""
    delta: Tensor | None = sublayer.bias_out
    if lanes.run:
        delta = run(sublayer, lanes, lane_input, key_mask)
    if delta is None:
        return x
    return x + (delta if sublayer.scale is None else delta * sublayer.scale)
