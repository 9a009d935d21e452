"""A user's own pictures: one folder per class, optionally under a training and a test part."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from runtime.data.class_folders import (
    TEST_NAMES,
    class_name,
    files_below,
    is_called,
    split_folders,
    subfolders,
)
from runtime.data.pictures.picture_source import Source, decoded

PREFIX = "imagefolder:"
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def image_folder(path: Path) -> Source:
    """Pictures below `path`; subfolders as `split_folders` finds them make the split.

    Classes are the folders' names in alphabetical order, as `class_name` reads them. Files with
    other endings, and names that begin with a dot, are left alone. Links are followed.

    Raises:
        InputError: no such folder, fewer than two classes, a class without pictures, or a class of
            one part that the other has not.
    """
    if not os.path.isdir(path):
        raise InputError(f"data {PREFIX}{path}: there is no such folder")
    name, parts = f"{PREFIX}{path}", split_folders(path)
    train, test = (path, None) if parts is None else parts
    if test is None:
        pictures, class_names = _pictures(train)
        return Source(name, pictures, None, class_names)
    train_pictures, class_names = _pictures(train)
    test_pictures, test_names = _pictures(test)
    if class_names != test_names:
        odd = sorted(set(class_names) ^ set(test_names))[0]
        raise InputError(f"data {path}: class {odd!r} is in only one of {train.name}, {test.name}")
    others = [f.name for f in subfolders(path) if f not in (train, test)]
    unused = [n for n in others if any(is_called(n, part) for part in TEST_NAMES)]
    more = f"; {', '.join(unused)} left alone" if unused else ""
    said = f"folders {train.name} and {test.name}{more}"
    return Source(name, train_pictures, test_pictures, class_names, said)


def _pictures(path: Path) -> tuple["FolderPictures", tuple[str, ...]]:
    folders = sorted(subfolders(path), key=lambda f: (class_name(f.name), f.name))
    names = [class_name(f.name) for f in folders]
    if len(folders) < 2:
        raise InputError(
            f"data {path}: has {len(folders)} class folders; it needs at least 2 with pictures"
        )
    for twice in (name for name, number in Counter(names).items() if number > 1):
        raise InputError(
            f"data {path}: has two folders of class {twice!r}, by spaces or the bytes of a letter "
            f"apart; leave one of them"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = files_below(folder, SUFFIXES)
        if not found:
            raise InputError(f"data {folder}: has no pictures ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    return FolderPictures(path, np.array(labels), PathTable(files)), tuple(names)


class PathTable:
    """Many paths as one piece of memory, which processes that are forked share untouched."""

    def __init__(self, paths: Iterable[Path]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = b"".join(encoded)
        self._starts = np.cumsum([0, *map(len, encoded)])

    def __getitem__(self, index: int) -> Path:
        start, stop = self._starts[index : index + 2].tolist()
        return Path(os.fsdecode(self._bytes[start:stop]))


@dataclass(frozen=True, eq=False)
class FolderPictures:
    """`runtime.data.pictures.picture_source.Pictures` in files.

    Attributes:
        root: folder that holds them.
        labels: int ``[num_pictures]``.
        files: of each picture.
    """

    root: Path
    labels: np.ndarray
    files: PathTable

    def read(self, index: int) -> Image.Image:
        path = self.files[index]
        check_named(path)
        return decoded(path, str(path))

    def name(self, index: int) -> str:
        path = self.files[index]
        return f"{path.relative_to(self.root).as_posix()} {_size(path)}"

    def content(self, index: int) -> bytes:
        path = self.files[index]
        try:
            return path.read_bytes() if path.is_file() else b""
        except OSError:
            return b""


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
