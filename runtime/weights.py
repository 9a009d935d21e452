"""Weights of a model to safetensors files in its family's own layout."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from d2ft_sched.atomic_write import write_atomically, write_text
from runtime.families.registry import family_of


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters as safetensors in the model's own layout, atomically."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary, {"format": "pt"}))


def write_companions(model: nn.Module, folder: Path) -> tuple[str, ...]:
    """Write what the model's library needs to read its weights; the names of the files."""
    files = family_of(model).companion_files(model)
    for name, text in files.items():
        write_text(folder / name, text)
    return tuple(files)
