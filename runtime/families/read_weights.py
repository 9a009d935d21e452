"""Reading a state dict from a file, and checking that it is a model's."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from runtime.tensor_file import is_finite


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file.

    Raises:
        InputError: there is no such file, or it is not whole.
    """
    check_named(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"weights {path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: is not a whole safetensors file ({error})") from None


def keep_classifier(
    state: dict[str, Tensor], own: Mapping[str, Tensor], names: tuple[str, ...]
) -> None:
    """Put a model's own classifier into `state` where that has none, or one of other classes."""
    for name in names:
        if name not in state or (state[name].dim() and len(state[name]) != len(own[name])):
            state[name] = own[name]


def check_fit(
    source: str,
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    skip: tuple[str, ...] = (),
) -> None:
    """Refuse a state that is not of a model's names and shapes, or has values that are no numbers.

    Args:
        source: what an error calls `state`.
        state: to be loaded.
        own: the model's.
        skip: names whose shapes may differ, but not their numbers of axes.

    Raises:
        InputError: naming the first tensor that does not fit.
    """
    for name, tensor in state.items():
        if name not in own:
            raise InputError(f"{source}: has tensor {name} {list(tensor.shape)}; the model has not")
        if name not in skip and tensor.shape != own[name].shape:
            raise InputError(
                f"{source}: tensor {name} has shape {list(tensor.shape)}; "
                f"the model needs {list(own[name].shape)}"
            )
        if tensor.dim() != own[name].dim():
            raise InputError(
                f"{source}: tensor {name} has {tensor.dim()} axes; the model needs "
                f"{own[name].dim()}"
            )
        if not is_finite(tensor):
            raise InputError(f"{source}: tensor {name} has values that are no numbers")
    for name, tensor in own.items():
        if name not in state:
            raise InputError(f"{source}: lacks tensor {name} {list(tensor.shape)}")
