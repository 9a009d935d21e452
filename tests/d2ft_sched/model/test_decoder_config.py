import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from d2ft_sched.model.decoder_config import DECODER_TYPES, decoder_shape
from d2ft_sched.model.decoder_table import decoder_config, known_decoders
from d2ft_sched.model.shape import ModelShape
from d2ft_sched.model.shape_file import load_model_shape

PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B": 7_248_023_552,
}
SMALL = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}


def matrices(config: dict[str, Any]) -> list[tuple[int, ...]]:
    """Every parameter of a decoder by its size, as the layouts of transformers have them."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"]
    keys = config.get("num_key_value_heads") or queries
    dim = config.get("head_dim") or width // queries
    block: list[tuple[int, ...]] = [
        (queries * dim, width),
        (keys * dim, width),
        (keys * dim, width),
        (width, queries * dim),
        (hidden, width),
        (hidden, width),
        (width, hidden),
        (width,),
        (width,),
    ]
    if config["model_type"] == "qwen2":
        block += [(queries * dim,), (keys * dim,), (keys * dim,)]
    if config["model_type"] == "qwen3":
        block += [(dim,), (dim,)]
    head = [] if config.get("tie_word_embeddings") else [(config["vocab_size"], width)]
    ends = [(config["vocab_size"], width), (width,), *head]
    return block * config["num_hidden_layers"] + ends


def num_values(sizes: list[tuple[int, ...]]) -> int:
    return sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_published_numbers_of_parameters(name: str) -> None:
    shape = load_model_shape(name)
    assert shape.num_parameters == PUBLISHED[name]
    assert shape.num_tokens == 2048
    assert load_model_shape(shape.name) == shape


def test_every_entry_of_the_table_is_its_config_and_its_matrices(tmp_path) -> None:
    for name, config in known_decoders().items():
        assert decoder_config(name) == config
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config | {"architectures": ["x"], "torch_dtype": "bfloat16"}))
        of_file, of_table = load_model_shape(str(path)), load_model_shape(name)
        assert load_model_shape(str(tmp_path)) == of_file
        assert of_file.name == str(tmp_path)
        assert of_file.num_parameters == of_table.num_parameters == num_values(matrices(config))


@given(
    model_type=st.sampled_from(DECODER_TYPES),
    keys=st.integers(1, 4),
    queries_of_each=st.integers(1, 5),
    dim=st.integers(1, 9),
    factor=st.integers(1, 3),
    explicit=st.booleans(),
    tied=st.booleans(),
    hidden=st.integers(1, 40),
    num_blocks=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_parameters_are_those_of_the_matrices(
    model_type, keys, queries_of_each, dim, factor, explicit, tied, hidden, num_blocks
) -> None:
    queries = keys * queries_of_each
    config = SMALL | {
        "model_type": model_type,
        "hidden_size": queries * dim * (factor if explicit else 1),
        "intermediate_size": hidden,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "tie_word_embeddings": tied,
        **({"head_dim": dim} if explicit else {}),
    }
    shape = decoder_shape("x", config)
    assert shape.num_parameters == num_values(matrices(config))
    assert (shape.num_heads, shape.queries_per_head, shape.head_dim) == (keys, queries_of_each, dim)
    assert shape.num_tokens == 64
    # what is not in subnets, nor shared by them, is embedding, norms and head
    subnets_only = ModelShape(
        **{**vars(shape), "trunk_parameters": 0, "classifier_parameters": 0}
    ).num_parameters
    assert shape.trunk_parameters == shape.num_parameters - subnets_only
    in_blocks = num_blocks * shape.block_trunk_parameters
    embedding = shape.trunk_parameters - in_blocks - shape.end_trunk_parameters
    assert shape.block_trunk_parameters == 2 * shape.width
    assert embedding == 50 * shape.width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; decoders that can be planned are llama,"),
        ({"model_type": "roberta"}, "qwen3, and of the others bert"),
        ({"model_type": ["llama"]}, "model_type is ['llama']; decoders"),
        ({"model_type": "mixtral"}, "model_type is 'mixtral'; decoders"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': anything but silu is not supported"),
        ({"attention_bias": True}, "attention_bias is True: biases of attention's maps is not"),
        ({"mlp_bias": True}, "mlp_bias is True: "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5: rotary positions on a"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25: "),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1: dropout is not supported"),
        ({"num_local_experts": 8}, "num_local_experts is 8: a mixture of experts is not"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}: quantized"),
        ({"sliding_window": 16}, "sliding_window is 16: attention within a window is not"),
        ({"num_key_value_heads": 4}, "num_attention_heads is 6; it must be a multiple of num_key"),
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, "hidden_size is 24; it must be a"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"max_position_embeddings": 10**30}, "num_tokens"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(tmp_path, change, message) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL | change))
    tokens = 10**29 if "max_position_embeddings" in change else None
    for model in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            load_model_shape(str(model), num_tokens=tokens)
        assert message in str(caught.value)
        assert str(path) in str(caught.value) or tokens
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", sorted({*SMALL} - {"num_key_value_heads", "model_type"}))
def test_a_size_that_is_missing_is_named(missing: str) -> None:
    with pytest.raises(InputError, match=f"{missing} is missing"):
        decoder_shape("x", {key: value for key, value in SMALL.items() if key != missing})


def test_heads_that_are_not_said_are_those_of_queries_in_llama_alone() -> None:
    config = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    assert decoder_shape("x", config).num_heads == 6
    with pytest.raises(InputError, match="num_key_value_heads is missing"):
        decoder_shape("x", config | {"model_type": "qwen2"})


def test_a_window_counts_only_where_it_hides_tokens() -> None:
    config = SMALL | {"model_type": "mistral", "sliding_window": 16}
    assert decoder_shape("x", config, 16).causal
    with pytest.raises(InputError, match="at most that many tokens, and they are 17"):
        decoder_shape("x", config, 17)
    unused = SMALL | {"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": False}
    assert decoder_shape("x", unused, 64).num_tokens == 64
    named = config | {"layer_types": ["full_attention"] * 3}
    assert decoder_shape("x", named, 64).num_tokens == 64


def test_sequences_have_at_most_the_positions_of_the_model() -> None:
    assert load_model_shape("Llama-3-8B", num_tokens=8192).num_tokens == 8192
    with pytest.raises(InputError, match=r"tokens is 8193; .*Llama-3-8B has positions for 1 to 8"):
        load_model_shape("Llama-3-8B", num_tokens=8193)


@pytest.mark.parametrize(("size", "value"), [("image_size", 224), ("num_classes", 10)])
def test_sizes_of_other_inputs_are_refused(size: str, value: int) -> None:
    with pytest.raises(InputError, match="tells tokens of a vocabulary apart, and"):
        load_model_shape("SmolLM2-135M", **{size: value})


def test_what_is_no_configuration_is_refused_with_its_file(tmp_path) -> None:
    for text, message in (("{", "is not YAML"), ("[1]", "content is")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            load_model_shape(str(tmp_path / "config.json"))
        assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere/config.json: cannot be read"):
        load_model_shape("nowhere/config.json")
    with pytest.raises(InputError, match="'other/Llama-3-8B' is not in the table"):
        load_model_shape("other/Llama-3-8B")


@pytest.mark.parametrize("file", ["config.json", "model/config.json", "model/small.json"])
def test_the_name_of_a_model_from_a_file_finds_that_file_again(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    sizes = dict(decoder_config("SmolLM2-135M"))
    for name, layers in (("config.json", 2), ("model/config.json", 3), ("model/small.json", 4)):
        (tmp_path / name).write_text(json.dumps(sizes | {"num_hidden_layers": layers}))
    shape = load_model_shape(file)
    assert shape.name not in ("", ".")
    assert load_model_shape(shape.name) == shape
