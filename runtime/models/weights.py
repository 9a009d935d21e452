"""Weights of a model to safetensors files in its family's own layout."""

from pathlib import Path

from torch import nn

from d2ft_sched.files.atomic_write import write_atomically, write_text
from runtime.families.registry import family_of
from runtime.tensor_file import write_state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters as safetensors in the model's own layout, atomically."""
    state = model.state_dict()
    write_atomically(path, lambda temporary: write_state(temporary, state))


def write_companions(model: nn.Module, folder: Path) -> tuple[str, ...]:
    """Write what the model's library needs to read its weights; the names of the files."""
    files = family_of(model).companion_files(model)
    for name, text in files.items():
        write_text(folder / name, text)
    return tuple(files)
