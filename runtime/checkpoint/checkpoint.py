"""Checkpoints: folders that are whole or not there.

``step-000120/`` holds ``model.safetensors`` (all parameters in the model's own layout),
``optimizer-RANK-of-NUM.safetensors`` (`runtime.checkpoint.optimizer_state`), ``average-...`` where
an average of weights is kept, and
``checkpoint.json``, which says where training stands and has size and SHA-256 of every file and of
itself. A folder is written under a temporary name and renamed when it is on disk. Nothing is
pickled.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from d2ft_sched.files.regular_file import check_named
from runtime.checkpoint.facts import (
    FACTS,
    FileFacts,
    TrainingState,
    read_facts,
    write_facts,
)
from runtime.checkpoint.going_on import is_same_training
from runtime.ranks.agreement import ALONE, gather_texts, together
from runtime.ranks.job import Ranks

MODEL = "model.safetensors"

_NAME = re.compile(r"step-\d{6,}")
_TEMPORARY = re.compile(r"\.step-\d{6,}\.(partial|old)")


_Result = TypeVar("_Result")


def shard_file(kind: str, rank: int, num_ranks: int) -> str:
    """Name of the file that holds a rank's part of some kind of values."""
    return f"{kind}-{rank}-of-{num_ranks}.safetensors"


def save_checkpoint(
    directory: Path,
    state: TrainingState,
    write_files: Callable[[Path], Sequence[str]],
    keep: int | None = None,
    ranks: Ranks = ALONE,
) -> Path:
    """Write ``step-NNNNNN`` into `directory`; on all ranks at once.

    Args:
        directory: of all checkpoints of a training, seen by every rank.
        state: where training stands.
        write_files: writes this rank's files into a folder and names them.
        keep: newest checkpoints to keep; None for all.
        ranks: that write together.

    Raises:
        InputError: the directory cannot be written to, or is not the same for all ranks.
        RankError: another rank died, hung, or could not write.
    """
    path = Path(directory) / f"step-{state.step:06d}"
    temporary = path.with_name(f".{path.name}.partial")
    what = f"the writing of {path}"

    def begin() -> None:
        if ranks.rank == 0:
            _remove_leftovers(path.parent)
            temporary.mkdir(parents=True)

    def write() -> dict[str, Any]:
        if not temporary.is_dir():
            raise InputError(
                f"checkpoint directory {directory}: rank {ranks.rank} does not see what rank 0 "
                f"writes there; choose a folder that all hosts share"
            )
        return {name: _measure(temporary / name) for name in write_files(temporary)}

    def finish(texts: Sequence[str]) -> None:
        if ranks.rank > 0:
            return
        files = {name: facts for text in texts for name, facts in json.loads(text).items()}
        write_facts(temporary / FACTS, state, files)
        _measure(temporary / FACTS)
        _sync_folder(temporary)
        if path.exists():
            path.rename(path.with_name(f".{path.name}.old"))
        temporary.rename(path)
        _sync_folder(path.parent)
        _prune(path, keep)

    together(ranks, _written(path, begin), what)
    own = together(ranks, _written(path, write), what)
    texts = gather_texts(ranks, json.dumps(own), what)
    together(ranks, _written(path, lambda: finish(texts)), what)
    return path


def _written(path: Path, act: Callable[[], _Result]) -> Callable[[], _Result]:
    """`act` with what the system refuses as an error of the user."""

    def checked() -> _Result:
        try:
            return act()
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None

    return checked


def load_checkpoint(path: Path) -> TrainingState:
    """Check every file of a checkpoint and read where training stood.

    Raises:
        InputError: not a checkpoint, of another version, or with a file that is missing, truncated
            or changed; the line names it.
    """
    path = Path(path)
    content = read_facts(path / FACTS)
    for name, facts in content.files.items():
        if Path(name).name != name:
            raise InputError(f"{path / FACTS}: is damaged: {name!r} is no file beside it")
        _check_file(path / name, facts)
    return content.state


def shard_files(path: Path, kind: str) -> list[Path]:
    """The files of some kind of values of a checkpoint, one per rank that wrote it.

    Raises:
        InputError: ``checkpoint.json`` does not name one.
    """
    content = read_facts(path / FACTS)
    num_ranks = content.state.num_ranks
    names = [shard_file(kind, rank, num_ranks) for rank in range(num_ranks)]
    for name in (MODEL, *names):
        if name not in content.files:
            raise InputError(f"{path / FACTS}: is damaged: it does not name {name}")
    return [path / name for name in names]


@dataclass(frozen=True)
class Found:
    """The newest whole checkpoint of a directory, and why newer ones are none, by their paths."""

    path: Path
    state: TrainingState
    refused: Mapping[Path, str]


def find_checkpoint(directory: Path) -> Found:
    """The newest whole checkpoint in `directory`.

    Raises:
        InputError: there is none.
    """
    refused: dict[Path, str] = {}
    for path in reversed(_checkpoints(directory)):
        try:
            return Found(path, load_checkpoint(path), refused)
        except InputError as error:
            refused[path] = str(error)
    for message in refused.values():
        raise InputError(f"{directory}: has no whole checkpoint: {message}")
    raise InputError(f"{directory}: has no checkpoint")


def resolve_checkpoint(resume: str, directory: Path) -> Found:
    """What a user means by ``latest`` in `directory`, by one checkpoint, or by a folder of some.

    Raises:
        InputError: there is none, it is damaged, training has gone on from it in `directory`, or
            that holds checkpoints of another training.
    """
    path = Path(directory) if resume == "latest" else Path(resume)
    is_one = (path / FACTS).exists()
    found = Found(path, load_checkpoint(path), {}) if is_one else find_checkpoint(path)
    check_no_newer(directory, found.state.step, set(found.refused))
    _check_no_other_training(directory, found)
    return found


def check_no_newer(directory: Path, step: int, refused: Set[Path] = frozenset()) -> None:
    """A directory holds one training: refuse to write into one that is ahead of `step`.

    Raises:
        InputError: naming its newest checkpoint that is not among the `refused`.
    """
    newer = [p for p in _checkpoints(directory) if _step_of(p) > step and p not in refused]
    if newer:
        raise InputError(
            f"{newer[-1]}: is there already; go on from it with --resume latest, or write to "
            f"another --checkpoint-dir"
        )


def _check_no_other_training(directory: Path, found: Found) -> None:
    """Older checkpoints there may be removed, so they must be of the training that goes on; what is
    damaged or of another version is not asked."""
    for path in _checkpoints(directory):
        try:
            settings = read_facts(path / FACTS).state.settings
        except InputError:
            continue
        if not is_same_training(settings, found.state.settings):
            raise InputError(
                f"{path}: is of another training than {found.path}; give another --checkpoint-dir"
            )


def _checkpoints(directory: Path) -> list[Path]:
    """Oldest first."""
    found = [p for p in Path(directory).glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _prune(newest: Path, keep: int | None) -> None:
    """Leave `keep` checkpoints; those beyond the one just written were refused when resuming."""
    known = _checkpoints(newest.parent)
    last = known.index(newest) + 1
    first = max(0, last - keep) if keep else 0
    for path in (*known[:first], *known[last:]):
        path.rename(path.with_name(f".{path.name}.old"))
    _remove_leftovers(newest.parent)


def _remove_leftovers(directory: Path) -> None:
    """Folders that a run which ended amid writing or removing them left behind."""
    for path in directory.glob(".step-*"):
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path)


def _measure(path: Path) -> dict[str, Any]:
    """Bytes and SHA-256 of a file, which is on disk when this returns."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_file(path: Path, facts: FileFacts) -> None:
    check_named(path)
    try:
        size = path.stat().st_size
        if size != facts.bytes:
            raise InputError(f"{path}: is damaged: {counted(size, 'byte')} of {facts.bytes}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: is missing from its checkpoint") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if digest != facts.sha256:
        raise InputError(f"{path}: is damaged: its content does not match its sha256")
