"""``checkpoint.json``: where a training stands, and what the files beside it are."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from d2ft_sched.files.schema import validate
from d2ft_sched.plan.replanning import ReplanState

FORMAT = "d2ft-checkpoint"
VERSION = 3
FACTS = "checkpoint.json"
Setting = str | int | float | bool | None
MAY_GROW = frozenset({"num_epochs"})
"""Settings of which a training that goes on may have more."""


@dataclass(frozen=True)
class BestEvaluation:
    """The best of a training so far: steps done, and what it said."""

    step: int
    top1: float
    loss: float


@dataclass(frozen=True)
class TrainingState:
    """Where training stands.

    Attributes:
        step: steps done, of `num_steps` in all.
        num_steps: of the whole training.
        steps_per_epoch: of them.
        epoch: that the next step belongs to, counted from 1.
        position: of the next step's mini-batch in the order of that epoch, counted from 0.
        seed: of the drawing of mini-batches and of their orders; nothing else is random.
        settings: that must be the same for training to go on as it would have.
        plan_sha256: digest of the plan file.
        num_ranks: ranks that wrote the checkpoint.
        provenance: of the run that wrote it.
        replanning: of a training that re-plans while it runs.
        best: evaluation, of a training that keeps its weights.
    """

    step: int
    num_steps: int
    steps_per_epoch: int
    epoch: int
    position: int
    seed: int
    settings: Mapping[str, Setting]
    plan_sha256: str
    num_ranks: int
    provenance: Mapping[str, str | int | float]
    replanning: ReplanState | None = None
    best: BestEvaluation | None = None


@dataclass(frozen=True)
class FileFacts:
    """Size and digest of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CheckpointFacts:
    """What ``checkpoint.json`` says: where training stands, and what each file is."""

    state: TrainingState
    files: dict[str, FileFacts]


def write_facts(path: Path, state: TrainingState, files: Mapping[str, Any]) -> None:
    """Write what `read_facts` reads.

    Args:
        path: the file.
        state: where training stands.
        files: bytes and SHA-256 of each file of the checkpoint, by its name.
    """
    path.write_text(_text({"state": asdict(state), "files": dict(files)}), encoding="utf-8")


def read_facts(path: Path) -> CheckpointFacts:
    """The facts of a checkpoint.

    Raises:
        InputError: not such a file, of another version, or changed.
    """
    check_named(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is damaged: not JSON") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path}: is not of a checkpoint: its format is not {FORMAT!r}")
    version, digest = content.pop("version", None), content.pop("sha256", None)
    if type(version) is not int or version != VERSION:
        raise InputError(f"{path}: is of version {version!r}; this d2ft reads version {VERSION}")
    if digest != _digest(content) or text != _text(content):
        raise InputError(f"{path}: is damaged: its content does not match its sha256")
    try:
        return validate(CheckpointFacts, content)
    except InputError as error:
        raise InputError(f"{path}: is damaged: {error}") from None


def _text(content: dict[str, Any]) -> str:
    """Of the file, to its last byte."""
    header = {"format": FORMAT, "version": VERSION, "sha256": _digest(content)}
    return json.dumps({**header, **content}, indent=1) + "\n"


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
