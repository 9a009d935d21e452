"""Which family a model, or the name of one, is of."""

from torch import nn

from d2ft_sched.errors import InputError
from runtime.families.bert import BertFamily
from runtime.families.decoders.decoder import DecoderFamily
from runtime.families.family import ModelFamily
from runtime.families.vit import VitFamily

FAMILIES: tuple[ModelFamily, ...] = (DecoderFamily(), BertFamily(), VitFamily())
"""The last one is asked for every name that no other knows, and says what is wrong with it."""


def family_named(name: str) -> ModelFamily:
    """The family that builds models of that name, or that refuses it."""
    return next((family for family in FAMILIES if family.knows(name)), FAMILIES[-1])


def family_of(model: nn.Module) -> ModelFamily:
    """The family of a model.

    Raises:
        InputError: it is of none.
    """
    for family in FAMILIES:
        if family.owns(model):
            return family
    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture") or type(model).__name__
    raise InputError(
        f"model {name!r} is a {type(model).__name__}; only timm's VisionTransformer, "
        f"transformers' BERT and its Llama, Mistral, Qwen2 and Qwen3 can run in lanes"
    )
