"""Where the configurations of decoder language models come from: the shipped table, or files."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from d2ft_sched.errors import InputError
from d2ft_sched.files.schema import parse_json
from d2ft_sched.files.text_file import read_text
from d2ft_sched.model.decoder_config import decoder_shape
from d2ft_sched.model.shape import ModelShape

_CONFIG = "config.json"
_ALSO = {
    "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Mistral-7B": "mistralai/Mistral-7B-v0.3",
}


@cache
def known_decoders() -> dict[str, dict[str, Any]]:
    """Full names and configurations of the shipped table."""
    return yaml.safe_load(files("d2ft_sched").joinpath("data/decoder_models.yaml").read_text())


def decoder_name(model: str) -> str | None:
    """The full name of a decoder of the table, given with its organisation or without; None for
    others."""
    known = known_decoders()
    by_short = {name.partition("/")[2]: name for name in known} | _ALSO
    short = model.rpartition("/")[2]
    name = model if model in known else by_short.get(short)
    organisation = model.rpartition("/")[0]
    return name if name and organisation in ("", name.partition("/")[0]) else None


def decoder_file(model: str) -> Path:
    """The ``config.json`` that a model which is not of the table is given by: itself, or that of a
    folder, there or not."""
    return Path(model) if model.endswith(".json") else Path(model) / _CONFIG


def is_decoder(model: str) -> bool:
    """Whether a model is a decoder of the table, or given by a configuration that is no BERT's, be
    it of one that is not supported."""
    if decoder_name(model) is not None:
        return True
    try:
        content = parse_json(read_text(decoder_file(model)))
    except InputError:
        return False
    is_bert = (
        not model.endswith(".json")
        and isinstance(content, dict)
        and (content.get("model_type") == "bert")
    )
    return isinstance(content, dict) and "model_type" in content and not is_bert


def decoder_config(model: str) -> dict[str, Any]:
    """The configuration of a decoder, with the keys of its ``config.json``.

    Args:
        model: a name of the table, a ``config.json``, or a folder that has one.

    Raises:
        InputError: there is none, or the file is no JSON object.
    """
    name = decoder_name(model)
    if name is not None:
        return dict(known_decoders()[name])
    path = decoder_file(model)
    try:
        content = parse_json(read_text(path, "a configuration in JSON"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: content is {type(content).__name__}; it must be an object")
    return content


def load_decoder_shape(model: str, num_tokens: int | None = None) -> ModelShape:
    """The sizes of a decoder; it is named as in the table, after the folder of its ``config.json``,
    or by its file.

    Raises:
        InputError: as `decoder_config` and `d2ft_sched.model.decoder_config.decoder_shape`.
    """
    name = decoder_name(model)
    if name is not None:
        return decoder_shape(name, known_decoders()[name], num_tokens)
    config, path = decoder_config(model), decoder_file(model)
    in_its_folder = path.name == _CONFIG and path.parent != Path()
    try:
        return decoder_shape(str(path.parent if in_its_folder else path), config, num_tokens)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
