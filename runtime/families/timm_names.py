"""Names of timm: an architecture, with a tag of pretrained weights or without; or an old alias."""

from difflib import get_close_matches
from pathlib import Path

import timm
from timm.models import get_arch_pretrained_cfgs, get_deprecated_models

from d2ft_sched.errors import InputError
from d2ft_sched.model.decoder_table import known_decoders
from d2ft_sched.model.shape_file import known_bert_models

_CLOSE = 0.75
"""Likeness from which a name of timm is offered for one that it lacks."""


def current_name(name: str) -> str:
    """The name that timm now has for a name: that of an alias names the tag that it meant."""
    return get_deprecated_models().get(name) or name


def check_timm_name(name: str) -> None:
    """Refuse a name that timm does not have, or a tag that its architecture does not have.

    Raises:
        InputError: with names that are close, or with what of the Hugging Face hub can be had.
    """
    if not timm.is_model(name):
        raise InputError(f"model {name!r} is not a model of timm {timm.__version__}{_hint(name)}")
    if get_deprecated_models().get(name, name) is None:
        raise InputError(f"model {name!r} is no longer a model of timm {timm.__version__}")
    architecture, _, tag = name.partition(".")
    tags = [known for known in get_arch_pretrained_cfgs(architecture) if "." in known]
    if tag and name not in tags:
        known = f"known are {', '.join(tags)}" if tags else "it has none"
        raise InputError(f"model {name!r}: timm has no pretrained weights of that tag; {known}")


def _hint(name: str) -> str:
    if Path(name).is_dir():
        return f", and the folder {name} has no config.json of a BERT or a decoder"
    if name.startswith((".", "/", "~")):
        return ", and there is no such folder"
    close = get_close_matches(
        name.rpartition("/")[2].lower(), timm.list_models("*vit*"), n=3, cutoff=_CLOSE
    )
    hint = f"; close to it are {', '.join(close)}" if close else ""
    if _is_of_the_hub(name):
        hint += (
            f"; of the models of the Hugging Face hub BERTs can run: "
            f"{', '.join(known_bert_models())}, and decoders: {', '.join(known_decoders())}, or "
            f"the folder of one that has been downloaded"
        )
    return hint


def _is_of_the_hub(name: str) -> bool:
    """Whether a name is built as those of the hub are, or names a kind that transformers knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kinds = [kind for kind in CONFIG_MAPPING_NAMES if len(kind) > 2]
    return "/" in name or ("_" not in name and any(kind in name.lower() for kind in kinds))
