"""Weights of a model to safetensors files in its family's own layout."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from d2ft_sched.files.atomic_write import write_atomically, write_text
from runtime.families.known_families import family_of
from runtime.ranks.shards import trained_dtype
from runtime.tensor_file import write_state

CLASS_NAMES = "class_names.json"
"""Beside weights and adapters: what the classifier's outputs are called, in their order."""


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters as safetensors in the model's own layout, in the type of those that
    train, atomically."""
    dtype = trained_dtype(model)
    state = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    write_atomically(path, lambda temporary: write_state(temporary, state))


def write_companions(model: nn.Module, folder: Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """Write what the model's library needs to read its weights, and the names of the classes.

    The names of the files are returned.
    """
    files = family_of(model).companion_files(model, class_names)
    for name, text in files.items():
        write_text(folder / name, text)
    if not family_of(model).has_class_labels:
        return tuple(files)
    return *files, write_class_names(folder, class_names)


def write_class_names(folder: Path, class_names: Sequence[str]) -> str:
    """Write `CLASS_NAMES`; its name."""
    write_text(folder / CLASS_NAMES, json.dumps(list(class_names), indent=1) + "\n")
    return CLASS_NAMES
