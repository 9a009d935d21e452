"""timm's VisionTransformer: pre-norm, one map for queries, keys and values, pictures as inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data import resolve_data_config
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape
from runtime.data.input_format import InputFormat, PictureFormat
from runtime.families.class_loss import ClassLoss
from runtime.families.family import UnitAxis
from runtime.families.focus_weights import FOCUS_MODEL, FOCUS_WEIGHTS
from runtime.families.splice import Lanes, Splice, SplicedBlocks, only_module
from runtime.families.sublayer import Sublayer
from runtime.families.timm_names import check_timm_name, current_name
from runtime.families.vit_weights import load_vit_weights
from runtime.lanes.core_graph import attention_core, elementwise_core

_NUM_CHANNELS = 3
STOCHASTIC_DEPTH = "stochastic depth"
_UNIT_AXES = {
    "attn.qkv.weight": UnitAxis(0, "heads", 0, ("queries", "keys", "values")),
    "attn.qkv.bias": UnitAxis(0, "heads", 0, ("queries", "keys", "values")),
    "attn.proj.weight": UnitAxis(0, "heads", 1, ("queries",)),
    "mlp.fc1.weight": UnitAxis(0, "hidden", 0, ("hidden",)),
    "mlp.fc1.bias": UnitAxis(0, "hidden", 0, ("hidden",)),
    "mlp.fc2.weight": UnitAxis(0, "hidden", 1, ("hidden",)),
}


class VitFamily(ClassLoss):
    """A `runtime.families.family.ModelFamily`; stored pictures are uint8 ``[B, 3, H, W]``."""

    weight_names = (FOCUS_WEIGHTS,)

    def knows(self, name: str) -> bool:
        return timm.is_model(name)

    def owns(self, model: nn.Module) -> bool:
        return type(model) is VisionTransformer

    def build(
        self,
        name: str,
        *,
        image_size: int | None,
        num_tokens: int | None,
        num_classes: int,
        weights: str | Path | None,
        pretrained: bool,
        seed: int,
    ) -> nn.Module:
        if num_tokens is not None:
            raise InputError(
                f"model {name!r} reads images, and the number of tokens is {num_tokens}; give an "
                f"image size instead"
            )
        check_timm_name(name)
        model = _create(current_name(name), image_size, num_classes, pretrained, seed)
        if weights is not None and self.owns(model):
            self.check_supported(model)
            load_vit_weights(cast(VisionTransformer, model), name, weights)
        return model

    def default_weights(self, name: str) -> str | None:
        return FOCUS_WEIGHTS if name == FOCUS_MODEL else None

    def input_format(self, shape: ModelShape, image_size: int | None = None) -> InputFormat:
        if image_size is None:
            num_inputs = shape.embed_flops / (2 * shape.width)
            image_size = round((num_inputs / _NUM_CHANNELS) ** 0.5)
            if _NUM_CHANNELS * image_size**2 != num_inputs:
                raise InputError(
                    f"the plan is for {shape.name!r}, which does not say its image size; give "
                    f"--image-size"
                )
        config = get_pretrained_cfg(current_name(shape.name))
        return picture_format(image_size, config.to_dict() if config else {})

    def model_name(self, model: nn.Module) -> str:
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        architecture = config.get("architecture") or type(model).__name__
        return ".".join(filter(None, (architecture, config.get("tag"))))

    def check_supported(self, model: nn.Module) -> None:
        vit = cast(VisionTransformer, model)
        unsupported = [text for text, is_so in _model_traits(vit) if is_so]
        if not unsupported:
            unsupported = [
                text for block in vit.blocks for text, is_so in _block_traits(block) if is_so
            ]
        if unsupported:
            raise InputError(
                f"model {self.model_name(model)!r} has {unsupported[0]}, which cannot run in "
                f"lanes; choose a plain ViT such as vit_small_patch16_224"
            )

    def shape_of(self, model: nn.Module) -> ModelShape:
        vit: Any = model
        block, embed, width = vit.blocks[0], vit.patch_embed, vit.embed_dim
        patch_elements = embed.proj.weight.numel() // width
        subnets_only = ModelShape(
            name=self.model_name(model),
            num_blocks=len(vit.blocks),
            num_heads=block.attn.num_heads,
            head_dim=block.attn.head_dim,
            width=width,
            mlp_hidden=block.mlp.fc1.out_features,
            num_tokens=embed.num_patches + vit.num_prefix_tokens,
            embed_flops=2 * embed.num_patches * patch_elements * width,
            classifier_flops=2 * width * vit.num_classes,
            qkv_bias=block.attn.qkv.bias is not None,
            mlp_bias=block.mlp.fc1.bias is not None,
            layer_scale=not isinstance(block.ls1, nn.Identity),
        )
        num_parameters = sum(p.numel() for p in vit.parameters())
        return replace(
            subnets_only,
            trunk_parameters=num_parameters - subnets_only.num_parameters,
            classifier_parameters=sum(p.numel() for p in vit.head.parameters()),
        )

    def blocks(self, model: nn.Module) -> list[tuple[Sublayer, Sublayer]]:
        return [_sublayers(block) for block in cast(VisionTransformer, model).blocks]

    def embed(self, model: nn.Module, inputs: Tensor) -> Tensor:
        vit: Any = model
        return vit.norm_pre(vit._pos_embed(vit.patch_embed(inputs)))

    def features(self, model: nn.Module, stream: Tensor, inputs: Tensor) -> Tensor:
        vit: Any = model
        return vit.forward_head(vit.norm(stream), pre_logits=True)

    def whole_features(self, model: nn.Module, inputs: Tensor) -> Tensor:
        vit: Any = model
        return vit.forward_head(vit.forward_features(inputs), pre_logits=True)

    def classifier(self, model: nn.Module) -> nn.Linear:
        return cast(nn.Linear, model.head)

    def key_mask(self, model: nn.Module, samples: Tensor) -> Tensor | None:
        return None

    def to_inputs(self, model: nn.Module, stored: Tensor) -> Tensor:
        mean, std = normalization_of(model)
        return normalize(stored, mean, std)

    def random_inputs(
        self, model: nn.Module, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        embed: Any = model.patch_embed
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        sizes = (num_samples, embed.proj.in_channels, *embed.img_size)
        return torch.randn(*sizes, generator=generator, dtype=dtype)

    def companion_files(self, model: nn.Module, class_names: Sequence[str]) -> dict[str, str]:
        return {}

    def unit_axis(self, parameter: str) -> UnitAxis | None:
        root, _, rest = parameter.partition(".")
        block, _, rest = rest.partition(".")
        if root != "blocks" or rest not in _UNIT_AXES:
            return None
        return replace(_UNIT_AXES[rest], block=int(block))

    def spliced(self, model: nn.Module) -> SplicedBlocks | None:
        found = only_module(model, VisionTransformer)
        if found is None:
            return None
        name, vit = found
        blocks = []
        for block in vit.blocks:
            for text, is_so in _block_traits(block):
                if is_so and text != STOCHASTIC_DEPTH:
                    raise InputError(f"the model has {text}, which cannot run in lanes")
            blocks.append(_splices(block))
        return SplicedBlocks(name, "", tuple(blocks))


def picture_format(image_size: int, pretrained_cfg: Mapping[str, Any]) -> PictureFormat:
    """How pictures are cropped, resized and normalised, as timm reads a model's `pretrained_cfg`;
    what that does not say is timm's default."""
    said = resolve_data_config({"img_size": image_size}, pretrained_cfg=dict(pretrained_cfg))
    return PictureFormat(
        image_size,
        crop_share=said["crop_pct"],
        crop_mode=said["crop_mode"],
        interpolation=said["interpolation"],
        mean=tuple(said["mean"]),
        std=tuple(said["std"]),
    )


def normalization_of(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the model was pretrained with."""
    own = picture_format(1, getattr(model, "pretrained_cfg", None) or {})
    return own.mean, own.std


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``[num_samples, 3, height, width]`` to float32 ``(x / 255 - mean) / std``."""
    centre = torch.tensor(mean, device=images.device).mul(255)[:, None, None]
    spread = torch.tensor(std, device=images.device).mul(255)[:, None, None]
    dtype = torch.result_type(images, centre)
    return images.to(dtype, copy=True).sub_(centre).div_(spread)


def _create(
    name: str, image_size: int | None, num_classes: int, pretrained: bool, seed: int
) -> nn.Module:
    """timm's model, which from here on is called what it was asked for by, tag or not."""
    sizes: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **sizes)
        except Exception as error:  # by what the model asserts or the hub answers, of any kind
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            if pretrained:
                raise InputError(
                    f"model {name!r} cannot be had from timm ({reason}); "
                    f"pretrained weights can also be given as a safetensors file"
                ) from None
            at = "" if image_size is None else f" at image size {image_size}"
            raise InputError(f"model {name!r} cannot be built{at} ({reason})") from None
    config: Any = model.pretrained_cfg
    config["architecture"] = name
    config.pop("tag", None)
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
        (STOCHASTIC_DEPTH, not isinstance(block.drop_path1, nn.Identity)),
        ("normed queries and keys", not isinstance(attn.q_norm, nn.Identity)),
        ("normed attention outputs", not isinstance(getattr(attn, "norm", idle), nn.Identity)),
        ("gated attention", getattr(attn, "gate", None) is not None),
        ("normed hidden units", not isinstance(mlp.norm, nn.Identity)),
        ("an activation with parameters", any(True for _ in mlp.act.parameters())),
    ]


def _sublayers(block: Any) -> tuple[Sublayer, Sublayer]:
    attn, mlp = block.attn, block.mlp
    attention = Sublayer(
        name="attention",
        norm=block.norm1,
        norm_first=True,
        maps_in=(attn.qkv,),
        map_out=attn.proj,
        core=partial(attention_core, head_dim=attn.head_dim),
        scale=getattr(block.ls1, "gamma", None),
    )
    return attention, Sublayer(
        name="mlp",
        norm=block.norm2,
        norm_first=True,
        maps_in=(mlp.fc1,),
        map_out=mlp.fc2,
        core=elementwise_core(mlp.act),
        scale=getattr(block.ls2, "gamma", None),
    )


def _splices(block: Any) -> tuple[Splice, Splice]:
    """With the block's dropout, which is inside its sub-layers or after them."""
    attn, mlp = block.attn, block.mlp
    attention, hidden = _sublayers(block)

    def attend(lanes: Lanes, x: Tensor, attn_mask: Tensor | None = None, **others: Any) -> Tensor:
        if attn_mask is not None:
            raise InputError("a mask in the attention of a ViT cannot run in lanes")
        dropout = attn.attn_drop.p if attn.training else 0.0
        core = partial(attention_core, head_dim=attn.head_dim, dropout=dropout)
        return attn.proj_drop(lanes(replace(attention, core=core), x, None))

    def feed_forward(lanes: Lanes, x: Tensor) -> Tensor:
        return mlp.drop2(lanes(hidden, x, None))

    hidden = replace(hidden, core=elementwise_core(lambda values: mlp.drop1(mlp.act(values))))
    return Splice(attn, "forward", attention, attend), Splice(mlp, "forward", hidden, feed_forward)
