"""Decoder language models of transformers (Llama, Mistral, Qwen2, Qwen3): pre-norm, causal, queries
that share keys and values, gated MLPs, token numbers as inputs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.decoder_config import DEFAULT_NUM_TOKENS, decoder_shape
from d2ft_sched.model.decoder_table import decoder_config, is_decoder, load_decoder_shape
from d2ft_sched.model.shape import ModelShape
from runtime.data.input_format import InputFormat, SequenceFormat
from runtime.families.bert_files import DTYPE_KEYS, in_one_line
from runtime.families.class_loss import Outcome
from runtime.families.decoders.decoder_cores import gated_core, rotary_attention
from runtime.families.decoders.decoder_files import (
    SMOLLM2,
    default_decoder_weights,
    read_decoder_weights,
    tokenizer_of_decoder,
)
from runtime.families.decoders.next_token_loss import (
    next_token_loss,
    next_token_outcome,
    num_counted_tokens,
)
from runtime.families.family import UnitAxis
from runtime.families.read_weights import check_fit
from runtime.families.splice import Lanes, Splice, SplicedBlocks, only_module
from runtime.families.sublayer import Sublayer
from runtime.without_values import without_values

_CLASSES = {
    f"transformers.models.{kind.lower()}.modeling_{kind.lower()}": f"{kind}ForCausalLM"
    for kind in ("Llama", "Mistral", "Qwen2", "Qwen3")
}
_LAYERS, _HEAD = "model.layers.", "lm_head.weight"
_UNIT_AXES = {
    **{
        f"self_attn.{part[0]}_proj.{kind}": UnitAxis(0, "heads", 0, (part,))
        for part in ("queries", "keys", "values")
        for kind in ("weight", "bias")
    },
    "self_attn.o_proj.weight": UnitAxis(0, "heads", 1, ("queries",)),
    "self_attn.q_norm.weight": UnitAxis(0, "heads", 0, ()),
    "self_attn.k_norm.weight": UnitAxis(0, "heads", 0, ()),
    "mlp.gate_proj.weight": UnitAxis(0, "hidden", 0, ("hidden",)),
    "mlp.up_proj.weight": UnitAxis(0, "hidden", 0, ("hidden",)),
    "mlp.down_proj.weight": UnitAxis(0, "hidden", 1, ("hidden",)),
}


class DecoderFamily:
    """A `runtime.families.family.ModelFamily`; samples are token numbers, int32 if stored.

    A sample is ``[N]``, one text that is filled up at its end, or ``[2, N]``, several texts one
    after another: token numbers and positions, which begin at 0 with every text. Labels are
    ``[N]``, as `runtime.families.decoders.next_token_loss` takes them. Models are transformers'
    own; their plain attributes ``name_or_path`` and ``num_tokens`` say what they were built as.
    """

    weight_names = (SMOLLM2,)
    has_class_labels = False

    def owns(self, model: nn.Module) -> bool:
        return _CLASSES.get(type(model).__module__) == type(model).__name__

    def knows(self, name: str) -> bool:
        return is_decoder(name)

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
        if image_size is not None:
            raise InputError(
                f"model {name!r} reads texts, and the image size is {image_size}; give a number "
                f"of tokens instead"
            )
        shape = load_decoder_shape(name, num_tokens)
        config = _config(name)
        if pretrained:
            model = _fetch(shape.name, config)
        elif weights is None:
            model = _create(config, seed)
        else:
            with without_values():
                model = _create(config, seed)
            own = dict(model.named_parameters())
            source, state = read_decoder_weights(weights)
            if _HEAD not in own:
                state.pop(_HEAD, None)
            check_fit(source, state, own)
            state = {tensor: values.float() for tensor, values in state.items()}
            model.load_state_dict(state, strict=False, assign=True)
            model.tie_weights()
        _renew_positions(model)
        model.name_or_path, model.num_tokens = shape.name, shape.num_tokens
        return model.train()

    def default_weights(self, name: str) -> str | None:
        return default_decoder_weights(name)

    def input_format(self, shape: ModelShape, image_size: int | None = None) -> InputFormat:
        if image_size is not None:
            raise InputError(
                f"model {shape.name!r} reads texts, and the image size is {image_size}; leave it "
                f"out"
            )
        tokenizer = tokenizer_of_decoder(shape.name)
        return SequenceFormat(shape.num_tokens, tokenizer, shape.vocabulary_size)

    def model_name(self, model: nn.Module) -> str:
        return cast(Any, model).name_or_path or type(model).__name__

    def check_supported(self, model: nn.Module) -> None:
        decoder = cast(Any, model)
        name = self.model_name(model)
        try:
            self.shape_of(model)
        except InputError as error:
            raise InputError(f"model {name!r}: {error}") from None
        for text, is_so in (
            ("gradient checkpointing of its own", bool(decoder.model.gradient_checkpointing)),
            ("a bias in its vocabulary head", decoder.lm_head.bias is not None),
        ):
            if is_so:
                raise InputError(f"model {name!r} has {text}, which cannot run in lanes")

    def shape_of(self, model: nn.Module) -> ModelShape:
        decoder = cast(Any, model)
        config = decoder.config
        num_tokens = getattr(
            decoder, "num_tokens", min(DEFAULT_NUM_TOKENS, config.max_position_embeddings)
        )
        return decoder_shape(self.model_name(model), config.to_dict(), num_tokens)

    def blocks(self, model: nn.Module) -> list[tuple[Sublayer, Sublayer]]:
        decoder = cast(Any, model).model
        return [_sublayers(layer, decoder.rotary_emb) for layer in decoder.layers]

    def embed(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return cast(Any, model).model.embed_tokens(_tokens(inputs))

    def features(self, model: nn.Module, stream: Tensor, inputs: Tensor) -> Tensor:
        return cast(Any, model).model.norm(stream)

    def whole_features(self, model: nn.Module, inputs: Tensor) -> Tensor:
        decoder = cast(Any, model).model
        positions = self.key_mask(model, inputs)
        return decoder(
            input_ids=_tokens(inputs), position_ids=positions, use_cache=False
        ).last_hidden_state

    def classifier(self, model: nn.Module) -> nn.Linear:
        return cast(Any, model).lm_head

    def num_counted(self, labels: Tensor) -> Tensor:
        return num_counted_tokens(labels)

    def loss(
        self, model: nn.Module, features: Tensor, labels: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        return next_token_loss(features, self.classifier(model).weight, labels, smoothing)

    def outcome(self, model: nn.Module, features: Tensor, labels: Tensor) -> Outcome:
        return Outcome(*next_token_outcome(features, self.classifier(model).weight, labels))

    def random_labels(self, model: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return _tokens(inputs).clone()

    def key_mask(self, model: nn.Module, samples: Tensor) -> Tensor | None:
        return samples[:, 1] if samples.dim() == 3 else None

    def to_inputs(self, model: nn.Module, stored: Tensor) -> Tensor:
        return stored.long()

    def random_inputs(
        self, model: nn.Module, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        shape = self.shape_of(model)
        size = (num_samples, shape.num_tokens)
        return torch.randint(shape.vocabulary_size, size, generator=generator)

    def companion_files(self, model: nn.Module, class_names: Sequence[str]) -> dict[str, str]:
        content = json.loads(cast(Any, model).config.to_json_string(use_diff=False))
        content |= {"dtype": "float32", "architectures": [type(model).__name__]}
        return {"config.json": json.dumps(content, indent=2, sort_keys=True) + "\n"}

    def unit_axis(self, parameter: str) -> UnitAxis | None:
        if not parameter.startswith(_LAYERS):
            return None
        block, _, rest = parameter.removeprefix(_LAYERS).partition(".")
        return replace(_UNIT_AXES[rest], block=int(block)) if rest in _UNIT_AXES else None

    def spliced(self, model: nn.Module) -> SplicedBlocks | None:
        for module, kind in _CLASSES.items():
            decoder = kind.removesuffix("ForCausalLM") + "Model"
            if module in sys.modules:
                found = only_module(model, getattr(sys.modules[module], decoder))
                if found is not None:
                    return _spliced(*found)
        return None


def _sublayers(layer: Any, rotary: Any) -> tuple[Sublayer, Sublayer]:
    attention, mlp = layer.self_attn, layer.mlp
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    first = Sublayer(
        name="attention",
        norm=layer.input_layernorm,
        norm_first=True,
        maps_in=(attention.q_proj, attention.k_proj, attention.v_proj),
        map_out=attention.o_proj,
        core=partial(rotary_attention, attention=attention, rotary=rotary),
        core_modules=tuple(norm for norm in norms if norm is not None),
    )
    return first, Sublayer(
        name="mlp",
        norm=layer.post_attention_layernorm,
        norm_first=True,
        maps_in=(mlp.gate_proj, mlp.up_proj),
        map_out=mlp.down_proj,
        core=gated_core(mlp.act_fn),
    )


def _spliced(name: str, model: Any) -> SplicedBlocks:
    if model.config.attention_dropout > 0:
        raise InputError("the model has dropout in its attention, which cannot run in lanes")
    blocks = tuple(_splices(layer, model.rotary_emb) for layer in model.layers)
    return SplicedBlocks(name, "model.", blocks)


def _splices(layer: Any, rotary: Any) -> tuple[Splice, Splice]:
    attention, hidden = _sublayers(layer, rotary)

    def attend(
        lanes: Lanes, hidden_states: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> tuple[Tensor, None]:
        seen = None
        if attention_mask is not None and not bool(_seen_first(attention_mask).all()):
            seen = _seen(attention_mask).expand(len(hidden_states), -1, -1, -1)
        return lanes(attention, hidden_states, seen), None

    def feed_forward(lanes: Lanes, x: Tensor) -> Tensor:
        return lanes(hidden, x, None)

    return (
        Splice(layer.self_attn, "forward", attention, attend),
        Splice(layer.mlp, "forward", hidden, feed_forward),
    )


def _seen_first(mask: Tensor) -> Tensor:
    """Whether each text's first token is seen, and by its last, bool ``[B]``.

    Args:
        mask: of transformers: 0/1 ``[B, N]``, or ``[B, 1, N, N]``, bool or added to scores.
    """
    return _is_seen(mask[:, 0] if mask.dim() == 2 else mask[:, 0, -1, 0])


def _seen(mask: Tensor) -> Tensor:
    """Which tokens each token may look at, bool ``[B, 1, N, N]``, of a mask as above."""
    if mask.dim() == 4:
        return _is_seen(mask)
    num_tokens = mask.shape[1]
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=mask.device).tril()
    return causal & _is_seen(mask)[:, None, None]


def _is_seen(mask: Tensor) -> Tensor:
    return mask > -1.0 if mask.dtype.is_floating_point else mask.bool()


def _tokens(inputs: Tensor) -> Tensor:
    return inputs[:, 0] if inputs.dim() == 3 else inputs


def _renew_positions(model: Any) -> None:
    """Frequencies are computed, not stored: those of a model without values have none."""
    with torch.device("cpu"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)


def _config(name: str) -> Any:
    """As transformers has it, whatever the weights are stored in."""
    from transformers import AutoConfig

    content = {k: v for k, v in decoder_config(name).items() if k not in DTYPE_KEYS}
    kind = content.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **content)
    except Exception as error:  # transformers has kinds of its own
        raise InputError(
            f"model {name!r}: its configuration is none of a {kind} ({in_one_line(error)})"
        ) from None
    config.use_cache = False
    return config


def _create(config: Any, seed: int) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _fetch(name: str, config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(name, config=config, dtype=torch.float32)
    except Exception as error:  # of many kinds, by what files or hub have wrong
        raise InputError(
            f"model {name!r} cannot be had from the Hugging Face hub ({in_one_line(error)}); "
            f"pretrained weights can also be given as a folder or a safetensors file"
        ) from None
