"""Decoder language models from their Hugging Face ``config.json``: what is supported, and sizes.

Read as JSON, without transformers. What would make a model another one than its sizes say is
refused by its name in that file.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, PositiveInt

from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import validate
from d2ft_sched.model.shape import ModelShape, brief

DECODER_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of ``model_type``; SmolLM and SmolLM2 call themselves llama."""

DEFAULT_NUM_TOKENS = 2048
"""Of a sequence, where the model has positions for as many."""

_ONLY: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, None),
    "attention_dropout": (0, None),
    "quantization_config": (None,),
    "num_local_experts": (0, None),
    "num_experts": (0, None),
    "n_routed_experts": (0, None),
}
"""Traits by what they must be where they stand in the file."""

_MEANING = {
    "attention_bias": "biases of attention's maps",
    "mlp_bias": "biases of the MLP's maps",
    "partial_rotary_factor": "rotary positions on a part of each head",
    "attention_dropout": "dropout",
    "quantization_config": "quantized weights",
    "num_local_experts": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "n_routed_experts": "a mixture of experts",
}


class _DecoderSchema(BaseModel):
    """What sizes and layout need of a ``config.json``; it has more, which changes neither."""

    model_type: str
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tie_word_embeddings: bool = False
    sliding_window: PositiveInt | None = None
    use_sliding_window: bool = True
    layer_types: list[str] | None = None


def decoder_shape(
    name: str, config: Mapping[str, Any], num_tokens: int | None = None
) -> ModelShape:
    """The sizes of a decoder at a length of sequences.

    Args:
        name: of the shape.
        config: content of its ``config.json``.
        num_tokens: of a sequence; default `DEFAULT_NUM_TOKENS`, or all positions if they are fewer.

    Raises:
        InputError: the architecture is unknown or has a trait that is not supported, a size is
            missing or wrong, or sequences are longer than the model's positions.
    """
    sizes = _checked(config)
    if num_tokens is None:
        num_tokens = min(DEFAULT_NUM_TOKENS, sizes.max_position_embeddings)
    if not 1 <= num_tokens <= sizes.max_position_embeddings:
        raise InputError(
            f"the number of tokens is {brief(num_tokens)}; {name} has positions for 1 to "
            f"{sizes.max_position_embeddings}"
        )
    window = _window(sizes)
    if window is not None and window < num_tokens:
        raise InputError(
            f"sliding_window is {window}: attention within a window is not supported; {name} can "
            f"be planned with at most that many tokens, and they are {num_tokens}"
        )
    queries = sizes.num_attention_heads
    keys = queries if sizes.num_key_value_heads is None else sizes.num_key_value_heads
    head_dim = sizes.hidden_size // queries if sizes.head_dim is None else sizes.head_dim
    width, num_blocks = sizes.hidden_size, sizes.num_hidden_layers
    vocabulary = sizes.vocab_size * width
    classifier = 0 if sizes.tie_word_embeddings else vocabulary
    return ModelShape(
        name=name,
        num_blocks=num_blocks,
        num_heads=keys,
        head_dim=head_dim,
        width=width,
        mlp_hidden=sizes.intermediate_size,
        num_tokens=num_tokens,
        classifier_flops=2 * vocabulary * num_tokens,
        trunk_parameters=vocabulary + classifier + (2 * num_blocks + 1) * width,
        classifier_parameters=classifier,
        qkv_bias=sizes.model_type == "qwen2",
        mlp_bias=False,
        num_qkv_maps=3,
        queries_per_head=queries // keys,
        gated_mlp=True,
        norm="rms",
        output_bias=False,
        query_key_norm=sizes.model_type == "qwen3",
        rotary=True,
        causal=True,
        vocabulary_size=sizes.vocab_size,
        tied_vocabulary=sizes.tie_word_embeddings,
    )


def _checked(config: Mapping[str, Any]) -> _DecoderSchema:
    model_type = config.get("model_type")
    if model_type not in DECODER_TYPES:
        raise InputError(
            f"model_type is {model_type!r}; decoders that can be planned are "
            f"{', '.join(DECODER_TYPES)}, and of the others bert"
        )
    rotary = config.get("rope_parameters")
    traits = {**(rotary if isinstance(rotary, Mapping) else {}), **config}
    for trait, allowed in _ONLY.items():
        if trait in traits and traits[trait] not in allowed:
            shown = repr(traits[trait])
            raise InputError(
                f"{trait} is {shown if len(shown) <= 60 else shown[:57] + '...'}: "
                f"{_MEANING.get(trait, 'anything but ' + str(allowed[0]))} is not supported"
            )
    sizes = validate(_DecoderSchema, config, extra="ignore")
    if sizes.num_key_value_heads is None and sizes.model_type != "llama":
        raise InputError("num_key_value_heads is missing")
    for name, divisor in (
        ("num_attention_heads", sizes.num_key_value_heads),
        ("hidden_size", None if sizes.head_dim else sizes.num_attention_heads),
    ):
        if divisor is not None and getattr(sizes, name) % divisor:
            of = "num_key_value_heads" if name == "num_attention_heads" else "num_attention_heads"
            raise InputError(
                f"{name} is {getattr(sizes, name)}; it must be a multiple of {of}, {divisor}"
            )
    return sizes


def _window(sizes: _DecoderSchema) -> int | None:
    """Tokens that attention sees at most; None for all of them."""
    if sizes.layer_types is not None and "sliding_attention" not in sizes.layer_types:
        return None
    if sizes.model_type.startswith("qwen") and not sizes.use_sliding_window:
        return None
    return sizes.sliding_window
