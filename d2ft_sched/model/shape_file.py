"""Model shapes by name or from a YAML or JSON file."""

from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.schema import read_yaml, validate
from d2ft_sched.model.decoder_table import is_decoder, known_decoders, load_decoder_shape
from d2ft_sched.model.shape import (
    DEFAULT_NUM_CLASSES,
    ModelShape,
    bert_shape,
    brief,
    vision_transformer_shape,
)


def known_vision_transformers() -> dict[str, dict[str, Any]]:
    """Names and sizes of the shipped table."""
    return _table("vision_transformers.yaml")


def known_bert_models() -> dict[str, dict[str, Any]]:
    """Names and sizes of the shipped table."""
    return _table("bert_models.yaml")


@cache
def _table(file: str) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(files("d2ft_sched").joinpath("data", file).read_text())


def load_model_shape(
    model: str,
    *,
    image_size: int | None = None,
    num_tokens: int | None = None,
    num_classes: int | None = None,
) -> ModelShape:
    """The shape of a known model at an input size, or the one a file describes.

    Args:
        model: a name of the shipped tables, a path that ends in .yaml, .yml or .json, or a folder
            with the ``config.json`` of a decoder.
        image_size: pixels, of a ViT; default that of the pretrained weights.
        num_tokens: of a sample, of a BERT or a decoder; default that of the table.
        num_classes: outputs of the classifier; 10 if nothing is said.

    Raises:
        InputError: unknown name, a size of another kind of input, a file that is not such a shape,
            or a size beside a file, which says its own.
    """
    if is_decoder(model):
        for size, value in (("image size", image_size), ("number of classes", num_classes)):
            if value is not None:
                raise InputError(
                    f"model {model!r} tells tokens of a vocabulary apart, and {size} "
                    f"{brief(value)} is given; leave it out"
                )
        return load_decoder_shape(model, num_tokens)
    if is_shape_file(model):
        for size, value in (
            ("image size", image_size),
            ("number of tokens", num_tokens),
            ("number of classes", num_classes),
        ):
            if value is not None:
                raise InputError(
                    f"{model}: is a file of sizes, which hold for its own {size}, and {size} "
                    f"{brief(value)} is given; leave it out, or write the file anew with "
                    f"'d2ft profile --shape-out'"
                )
        return _shape_from_file(Path(model))
    num_classes = DEFAULT_NUM_CLASSES if num_classes is None else num_classes
    known = known_vision_transformers()
    if model in known_bert_models():
        if image_size is not None:
            raise InputError(
                f"model {model!r} reads tokens, and the image size is {image_size}; give a number "
                f"of tokens instead"
            )
        sizes = dict(known_bert_models()[model])
        default_num_tokens = sizes.pop("num_tokens")
        num_tokens = default_num_tokens if num_tokens is None else num_tokens
        return bert_shape(model, num_tokens=num_tokens, num_classes=num_classes, **sizes)
    if num_tokens is not None and model in known:
        raise InputError(
            f"model {model!r} reads images, and the number of tokens is {num_tokens}; give an "
            f"image size instead"
        )
    if model not in known:
        raise InputError(
            f"model {model!r} is not in the table of known shapes "
            f"({', '.join([*known, *known_bert_models(), *known_decoders()])}); "
            f"describe it in a .yaml file with the fields of ModelShape, or let "
            f"'d2ft profile --model {model} --shape-out FILE' write one"
        )
    sizes = dict(known[model])
    default_image_size = sizes.pop("image_size")
    image_size = default_image_size if image_size is None else image_size
    return vision_transformer_shape(model, image_size=image_size, num_classes=num_classes, **sizes)


def is_shape_file(model: str) -> bool:
    """Whether a model is given by a file of sizes."""
    return model.endswith((".yaml", ".yml", ".json"))


def is_known_model(model: str) -> bool:
    """Whether a model's sizes are in the shipped tables, or in the configuration of a decoder."""
    return model in known_vision_transformers() or model in known_bert_models() or is_decoder(model)


def _shape_from_file(path: Path) -> ModelShape:
    try:
        return validate(ModelShape, read_yaml(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def save_model_shape(shape: ModelShape, path: Path) -> None:
    """Write a file that `load_model_shape` reads."""
    write_text(path, yaml.safe_dump(asdict(shape), sort_keys=False))
