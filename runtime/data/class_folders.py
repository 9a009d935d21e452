"""Folders of classes: which of them are parts of a data set, and the files below each."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from d2ft_sched.errors import InputError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")
"""What parts of a data set are called, in any case; of several test parts the first here is it."""

_ADDITION = re.compile(r"[\W\d_]*((images?|imgs?|data|set|split)[\W\d_]*)?")
"""What may follow such a name, as in ``train2017`` and ``test_images``."""


def class_name(text: str) -> str:
    """What a folder or a cell of a table calls a class, by whatever bytes it is written."""
    return unicodedata.normalize("NFC", text).strip()


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder, links to folders among them, in order; hidden ones are left out.

    Raises:
        InputError: the folder cannot be read.
    """
    return [p for p in _entries(path) if os.path.isdir(p)]


def split_folders(path: Path) -> tuple[Path, Path | None] | None:
    """The folders of training and test part in a folder; None if they are classes.

    A folder that stands alone and is called like a training part is one without a test part.

    Raises:
        InputError: two folders are called like the same part, or the folder of the test part has a
            name that is not known.
    """
    folders = subfolders(path)
    trains = [f for f in folders if any(is_called(f.name, name) for name in TRAIN_NAMES)]
    called = ([f for f in folders if is_called(f.name, name)] for name in TEST_NAMES)
    tests = next(filter(None, called), [])
    if trains and tests:
        for found in (trains, tests):
            if len(found) > 1:
                raise InputError(
                    f"data {path}: has {found[0].name} and {found[1].name}; leave one of them"
                )
        return trains[0], tests[0]
    if folders == trains and len(trains) == 1:
        return trains[0], None
    for train in trains:
        classes = _names(subfolders(train))
        for other in folders if len(classes) > 1 else ():
            if other != train and _names(subfolders(other)) == classes:
                raise InputError(
                    f"data {path}: {train.name} and {other.name} hold folders of the same names; "
                    f"if they are the parts to train and to test on, call them train and test"
                )
    return None


def _names(folders: list[Path]) -> list[str]:
    return [folder.name for folder in folders]


def is_called(name: str, part: str) -> bool:
    """Whether something is called like a part of a data set."""
    name = name.lower()
    return name.startswith(part) and _ADDITION.fullmatch(name, len(part)) is not None


def files_below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Files with these endings in a folder and its subfolders, links followed, in order.

    Each folder is entered once however many links lead to it; one that holds the folder itself, as
    a link upwards does, is not entered. Names that begin with a dot are left alone.

    Raises:
        InputError: a folder cannot be read.
    """
    real = os.path.realpath(folder)
    above = {os.path.realpath(folder.parent), real}
    return sorted(_walk(folder, suffixes, (*above,), {real}))


def _walk(
    folder: Path, suffixes: frozenset[str], above: tuple[str, ...], seen: set[str]
) -> Iterator[Path]:
    for path in _entries(folder):
        if not os.path.isdir(path):
            if path.suffix.lower() in suffixes:
                yield path
            continue
        real = os.path.realpath(path)
        leads_back = any(own == real or Path(real) in Path(own).parents for own in above)
        if not leads_back and real not in seen:
            seen.add(real)
            yield from _walk(path, suffixes, (*above, real), seen)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise InputError(f"data {folder}: cannot be read ({error.strerror})") from None
