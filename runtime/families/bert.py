"""BERT of transformers: post-norm, three maps for queries, keys and values, texts as inputs."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape import ModelShape
from runtime.data.input_format import InputFormat, TokenFormat
from runtime.families.bert_classifier import BertClassifier, mean_of_tokens
from runtime.families.bert_files import (
    DTYPE_KEYS,
    MINILM,
    bert_config,
    default_bert_weights,
    hub_name,
    in_one_line,
    is_bert_name,
    read_bert_weights,
    tokenizer_of,
)
from runtime.families.class_loss import ClassLoss
from runtime.families.family import UnitAxis
from runtime.families.read_weights import check_fit, keep_classifier
from runtime.families.splice import (
    Lanes,
    Splice,
    SplicedBlocks,
    only_module,
    visible_tokens,
)
from runtime.families.sublayer import Sublayer
from runtime.lanes.core_graph import attention_core, elementwise_core

DEFAULT_NUM_TOKENS = 128

_LAYERS = "bert.encoder.layer."
_UNIT_AXES = {
    **{
        f"attention.self.{part}.{kind}": UnitAxis(0, "heads", 0, (rows,))
        for part, rows in (("query", "queries"), ("key", "keys"), ("value", "values"))
        for kind in ("weight", "bias")
    },
    "attention.output.dense.weight": UnitAxis(0, "heads", 1, ("queries",)),
    "intermediate.dense.weight": UnitAxis(0, "hidden", 0, ("hidden",)),
    "intermediate.dense.bias": UnitAxis(0, "hidden", 0, ("hidden",)),
    "output.dense.weight": UnitAxis(0, "hidden", 1, ("hidden",)),
}


class BertFamily(ClassLoss):
    """A `runtime.families.family.ModelFamily`; texts are token numbers ``[B, N]``, int32 if stored.

    Padding is known by its number: it is masked in attention and left out of the mean of tokens.
    """

    weight_names = (MINILM,)

    def owns(self, model: nn.Module) -> bool:
        return type(model) is BertClassifier

    def knows(self, name: str) -> bool:
        return is_bert_name(name)

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
        config = bert_config(name)
        if num_tokens is None:
            num_tokens = min(DEFAULT_NUM_TOKENS, config.max_position_embeddings)
        if not 1 <= num_tokens <= config.max_position_embeddings:
            raise InputError(
                f"the number of tokens is {num_tokens}; model {name!r} has positions for 1 to "
                f"{config.max_position_embeddings}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bert = _fetch(name, config) if pretrained else _create(name, config)
            model = BertClassifier(bert, num_classes, name=name, num_tokens=num_tokens)
        model.train()
        if weights is not None:
            source, state = read_bert_weights(weights)
            own = model.state_dict()
            keep_classifier(state, own, ("classifier.weight", "classifier.bias"))
            check_fit(source, state, own)
            model.load_state_dict(state)
        return model

    def default_weights(self, name: str) -> str | None:
        return default_bert_weights(name)

    def input_format(self, shape: ModelShape, image_size: int | None = None) -> InputFormat:
        if image_size is not None:
            raise InputError(
                f"model {shape.name!r} reads texts, and the image size is {image_size}; leave it "
                f"out"
            )
        config = bert_config(shape.name)
        tokenizer = tokenizer_of(shape.name)
        return TokenFormat(shape.num_tokens, tokenizer, config.pad_token_id, config.vocab_size)

    def model_name(self, model: nn.Module) -> str:
        return cast(BertClassifier, model).name

    def check_supported(self, model: nn.Module) -> None:
        bert: Any = cast(BertClassifier, model).bert
        config = bert.config
        dropout = max(config.hidden_dropout_prob, config.attention_probs_dropout_prob)
        traits = [
            *_block_traits(bert),
            ("dropout", dropout > 0),
            ("no padding token", config.pad_token_id is None or config.pad_token_id < 0),
            ("no token types", config.type_vocab_size < 1),
            ("gradient checkpointing", bool(getattr(bert, "gradient_checkpointing", False))),
        ]
        for text, is_so in traits:
            if is_so:
                raise InputError(
                    f"model {self.model_name(model)!r} has {text}, which cannot run in lanes"
                )

    def shape_of(self, model: nn.Module) -> ModelShape:
        classifier = cast(BertClassifier, model)
        config: Any = classifier.bert.config
        num_heads = config.num_attention_heads
        subnets_only = ModelShape(
            name=self.model_name(model),
            num_blocks=config.num_hidden_layers,
            num_heads=num_heads,
            head_dim=config.hidden_size // num_heads,
            width=config.hidden_size,
            mlp_hidden=config.intermediate_size,
            num_tokens=classifier.num_tokens,
            classifier_flops=2 * config.hidden_size * classifier.classifier.out_features,
            num_qkv_maps=3,
            norm_first=False,
        )
        num_parameters = sum(p.numel() for p in model.parameters())
        return replace(
            subnets_only,
            trunk_parameters=num_parameters - subnets_only.num_parameters,
            classifier_parameters=sum(p.numel() for p in classifier.classifier.parameters()),
        )

    def blocks(self, model: nn.Module) -> list[tuple[Sublayer, Sublayer]]:
        bert: Any = model.bert
        return [_sublayers(layer) for layer in bert.encoder.layer]

    def embed(self, model: nn.Module, inputs: Tensor) -> Tensor:
        embeddings: Any = model.bert.embeddings  # type: ignore[union-attr]
        num_tokens = inputs.shape[1]
        return embeddings(
            input_ids=inputs,
            position_ids=torch.arange(num_tokens, device=inputs.device)[None],
            token_type_ids=torch.zeros_like(inputs),
        )

    def features(self, model: nn.Module, stream: Tensor, inputs: Tensor) -> Tensor:
        return mean_of_tokens(stream, cast(BertClassifier, model).mask(inputs))

    def whole_features(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return cast(BertClassifier, model).features(inputs)

    def classifier(self, model: nn.Module) -> nn.Linear:
        return cast(BertClassifier, model).classifier

    def key_mask(self, model: nn.Module, samples: Tensor) -> Tensor | None:
        return cast(BertClassifier, model).mask(samples)

    def to_inputs(self, model: nn.Module, stored: Tensor) -> Tensor:
        return stored.long()

    def random_inputs(
        self, model: nn.Module, num_samples: int, generator: torch.Generator
    ) -> Tensor:
        classifier = cast(BertClassifier, model)
        config: Any = classifier.bert.config
        size = (num_samples, classifier.num_tokens)
        drawn = torch.randint(config.vocab_size - 1, size, generator=generator)
        return drawn + (drawn >= config.pad_token_id)

    def unit_axis(self, parameter: str) -> UnitAxis | None:
        if not parameter.startswith(_LAYERS):
            return None
        block, _, rest = parameter.removeprefix(_LAYERS).partition(".")
        return replace(_UNIT_AXES[rest], block=int(block)) if rest in _UNIT_AXES else None

    def companion_files(self, model: nn.Module, class_names: Sequence[str]) -> dict[str, str]:
        config: Any = copy.deepcopy(cast(BertClassifier, model).bert.config)
        config.id2label = dict(enumerate(class_names))
        config.label2id = {name: i for i, name in enumerate(class_names)}
        content = json.loads(config.to_json_string())
        content |= {key: "float32" for key in DTYPE_KEYS if key in content}
        return {"config.json": json.dumps(content, indent=2, sort_keys=True) + "\n"}

    def spliced(self, model: nn.Module) -> SplicedBlocks | None:
        from transformers import BertModel

        found = only_module(model, BertModel)
        if found is None:
            return None
        name, bert = found
        for text, is_so in _block_traits(bert):
            if is_so:
                raise InputError(f"the model has {text}, which cannot run in lanes")
        return SplicedBlocks(name, "bert.", tuple(_splices(layer) for layer in bert.encoder.layer))


def _sublayers(layer: Any) -> tuple[Sublayer, Sublayer]:
    attention, inner = layer.attention, layer.attention.self
    first = Sublayer(
        name="attention",
        norm=attention.output.LayerNorm,
        norm_first=False,
        maps_in=(inner.query, inner.key, inner.value),
        map_out=attention.output.dense,
        core=partial(attention_core, head_dim=inner.attention_head_size),
    )
    return first, Sublayer(
        name="mlp",
        norm=layer.output.LayerNorm,
        norm_first=False,
        maps_in=(layer.intermediate.dense,),
        map_out=layer.output.dense,
        core=elementwise_core(layer.intermediate.intermediate_act_fn),
    )


def _block_traits(bert: Any) -> list[tuple[str, bool]]:
    config = bert.config
    return [
        ("causal attention", config.is_decoder),
        ("cross-attention", config.add_cross_attention),
        ("an activation with parameters", _has_parameters(bert)),
        ("a feed-forward in chunks", config.chunk_size_feed_forward > 0),
    ]


def _splices(layer: Any) -> tuple[Splice, Splice]:
    """With the layer's dropout, which is inside its attention or after its output maps."""
    attention, hidden = _sublayers(layer)
    inner, after, output = layer.attention.self, layer.attention.output, layer.output

    def attend(
        lanes: Lanes, x: Tensor, attention_mask: Tensor | None = None, **others: Any
    ) -> tuple[Tensor, None]:
        dropout = inner.dropout.p if inner.training else 0.0
        core = partial(attention_core, head_dim=inner.attention_head_size, dropout=dropout)
        mask = visible_tokens(attention_mask, len(x))
        branch = lanes(replace(attention, core=core), x, mask)
        return after.LayerNorm(after.dropout(branch) + x), None

    def feed_forward(lanes: Lanes, x: Tensor) -> Tensor:
        return output.LayerNorm(output.dropout(lanes(hidden, x, None)) + x)

    return (
        Splice(layer.attention, "forward", attention, attend),
        Splice(layer, "feed_forward_chunk", hidden, feed_forward),
    )


def _has_parameters(bert: Any) -> bool:
    """Whether the activation of some MLP has any."""
    activations = [layer.intermediate.intermediate_act_fn for layer in bert.encoder.layer]
    return any(True for activation in activations for _ in activation.parameters())


def _create(name: str, config: Any) -> nn.Module:
    from transformers import BertModel

    try:
        return BertModel(config, add_pooling_layer=False)
    except Exception as error:  # of many kinds, by what the configuration has wrong
        reason = in_one_line(error)
        raise InputError(f"model {name!r}: its configuration makes no BERT ({reason})") from None


def _fetch(name: str, config: Any) -> nn.Module:
    from transformers import BertModel

    try:
        bert = BertModel.from_pretrained(hub_name(name), config=config, add_pooling_layer=False)
    except Exception as error:  # of many kinds, by what files or hub have wrong
        reason = in_one_line(error)
        raise InputError(
            f"model {name!r} cannot be had from the Hugging Face hub ({reason}); pretrained "
            f"weights can also be given as a safetensors file"
        ) from None
    return bert.float()  # whatever its files hold; parameters are float32 in all precisions
