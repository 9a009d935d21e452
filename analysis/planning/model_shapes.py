"""The shape of a model that is to be planned: of a file, of the shipped tables, or of its library.

A library is asked in a process of its own, so that torch stays out of this one, and its answer is
kept in the user's cache folder until the library's version changes.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs

from d2ft_sched.errors import InputError
from d2ft_sched.files.atomic_write import write_text
from d2ft_sched.files.provenance import package_version
from d2ft_sched.files.schema import parse_json, validate
from d2ft_sched.model.shape import DEFAULT_NUM_CLASSES, ModelShape
from d2ft_sched.model.shape_file import is_known_model, is_shape_file, load_model_shape

_PACKAGES = ("d2ft", "timm", "transformers")
_ASK = [sys.executable, "-P", "-m", "runtime.models.named_shape"]


def model_shape(
    model: str,
    *,
    image_size: int | None = None,
    num_tokens: int | None = None,
    num_classes: int | None = None,
) -> ModelShape:
    """The shape of every model that can be planned.

    Args:
        model: as `d2ft_sched.model.shape_file.load_model_shape` takes it, another name of timm, its
            pretrained tag included, or a folder of a BERT in the layout of transformers.
        image_size, num_tokens, num_classes: as there.

    Raises:
        InputError: there is no such model, it cannot run in lanes, or a size does not fit.
    """
    if is_shape_file(model) or is_known_model(model):
        return load_model_shape(
            model, image_size=image_size, num_tokens=num_tokens, num_classes=num_classes
        )
    question = {
        "name": model,
        "image_size": image_size,
        "num_tokens": num_tokens,
        "num_classes": DEFAULT_NUM_CLASSES if num_classes is None else num_classes,
    }
    kept = _place(question)
    try:
        return validate(ModelShape, parse_json(kept.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        shape = _ask(question)
    try:
        write_text(kept, json.dumps(asdict(shape)))
    except InputError:
        return shape  # whoever cannot keep it is told it anew next time
    return shape


def _place(question: dict[str, Any]) -> Path:
    """Where the answer is kept; a folder's configuration is part of the question."""
    name = question["name"]
    facts = {**question, **{package: package_version(package) for package in _PACKAGES}}
    try:
        config = (Path(name) / "config.json").read_bytes()
        facts |= {"config": hashlib.sha256(config).hexdigest()}
    except (OSError, ValueError):
        pass
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Path(platformdirs.user_cache_dir("d2ft")) / "shapes" / f"{digest}.json"


def _ask(question: dict[str, Any]) -> ModelShape:
    from analysis.console.output import print_note

    print_note(f"Read the sizes of {question['name']} from its library, once")
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        _ASK,
        input=json.dumps(question),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(_ASK)} ended with {done.returncode}:\n{done.stderr}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "refused" in answer:
        raise InputError(answer["refused"])
    return ModelShape(**answer["shape"])
