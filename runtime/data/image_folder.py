"""A user's own pictures: one folder per class, optionally under ``train`` and ``test``."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from runtime.data.pictures import Pictures, Source, to_rgb

PREFIX = "imagefolder:"
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TEST_NAMES = ("test", "val", "valid", "validation")


def image_folder(path: Path) -> Source:
    """Pictures below `path`; subfolders ``train`` and one of `_TEST_NAMES` make the split.

    Classes are the folders' names in alphabetical order. Files with other endings, and those whose
    names begin with a dot, are left alone.

    Raises:
        InputError: no such folder, fewer than two classes, a class without pictures, or a class of
            one part that the other has not.
    """
    if not path.is_dir():
        raise InputError(f"data {PREFIX}{path}: there is no such folder")
    train, test = path / "train", next((path / n for n in _TEST_NAMES if (path / n).is_dir()), None)
    if not train.is_dir() or test is None:
        pictures, class_names = _pictures(path)
        return Source(f"{PREFIX}{path}", pictures, None, class_names)
    train_pictures, class_names = _pictures(train)
    test_pictures, test_names = _pictures(test)
    if class_names != test_names:
        odd = sorted(set(class_names) ^ set(test_names))[0]
        raise InputError(f"data {path}: class {odd!r} is in only one of {train.name}, {test.name}")
    return Source(f"{PREFIX}{path}", train_pictures, test_pictures, class_names)


def _pictures(path: Path) -> tuple[Pictures, tuple[str, ...]]:
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(folders) < 2:
        raise InputError(
            f"data {path}: has {len(folders)} class folders; it needs at least 2 with pictures"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(
            f
            for f in folder.rglob("*")
            if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")
        )
        if not found:
            raise InputError(f"data {folder}: has no pictures ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [label] * len(found)
    return Pictures(np.array(labels), lambda i: _open(files[i])), tuple(f.name for f in folders)


def _open(path: Path) -> Image.Image:
    check_named(path)
    try:
        with Image.open(path) as picture:
            return to_rgb(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"picture {path} cannot be read ({reason})") from None
