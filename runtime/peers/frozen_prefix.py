"""A model whose first blocks are frozen, embedding included."""

import torch
from torch import nn

from runtime.families.known_families import family_of


def freeze_prefix(model: nn.Module, num_blocks: int) -> None:
    """Take embedding and first blocks out of training, their norms and biases, too.

    What `Operation.FORWARD_ONLY` leaves of a block, its trunk, would otherwise go on to train by a
    gradient that knows nothing of the block's heads and hidden units.

    Args:
        model: one that `runtime.models.build.check_supported` accepts; what is frozen in it stays
            so.
        num_blocks: how many; 0 leaves the model as it is.
    """
    if num_blocks == 0:
        return
    family = family_of(model)
    trained = set(_after_blocks(model))
    for sublayers in family.blocks(model)[num_blocks:]:
        for sublayer in sublayers:
            assert isinstance(sublayer.norm, nn.Module)
            trained |= {*sublayer.parameters(), *sublayer.norm.parameters()}
            if sublayer.scale is not None:
                trained.add(sublayer.scale)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter in trained)


def _after_blocks(model: nn.Module) -> list[nn.Parameter]:
    """Parameters between the last block and the logits: those that these have a gradient for."""
    family, parameters = family_of(model), [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    inputs = family.random_inputs(model, 1, generator).to(parameters[0].device)
    stream = family.embed(model, inputs).detach()
    labels = family.random_labels(model, inputs, generator).to(inputs.device)
    loss = family.loss(model, family.features(model, stream, inputs), labels)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [p for p, g in zip(parameters, gradients, strict=True) if g is not None]
