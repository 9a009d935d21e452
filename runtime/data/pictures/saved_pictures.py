"""Pictures in a folder that Hugging Face's ``datasets`` saved to disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from runtime.data.pictures.picture_source import Source, decoded
from runtime.data.saved_dataset import HF_DATASET, open_saved, parts_of

PREFIX = f"{HF_DATASET}:"
_LABEL = "label"


def saved_pictures(name: str) -> Source:
    """A data set with a column of pictures and one of classes, ``hf-dataset:FOLDER``.

    Pictures are in the column whose feature is ``Image``; classes in that whose feature is
    ``ClassLabel``, or else in one of texts or integers called ``label``.

    Raises:
        InputError: it is no such folder, its columns are others, or a row has no class.
    """
    saved = open_saved(name, Path(name.removeprefix(PREFIX)))
    first, rows = next(iter(saved.items()))
    column, classes = _columns(name, rows.features)
    values = {
        split: _values(f"data {name}: split {split}", own, classes) for split, own in saved.items()
    }
    number, class_names = _numbered(rows.features[classes], values[first])
    if len(class_names) < 2:
        raise InputError(
            f"data {name}: has {counted(len(class_names), 'class')}; it needs at least 2"
        )
    train, *test = (
        SavedPictures(
            f"{name}: {split}: row",
            _labels(f"data {name}: {split}: row", values[split], number),
            _undecoded(own, column),
            column,
        )
        for split, own in saved.items()
    )
    return Source(name, train, test[0] if test else None, class_names, parts_of(saved))


@dataclass(frozen=True, eq=False)
class SavedPictures:
    """`runtime.data.pictures.picture_source.Pictures` in rows of ``datasets``.

    Attributes:
        where: what a row is called, but for its number.
        labels: int ``[num_pictures]``.
        rows: whose column `column` has pictures as bytes or paths.
    """

    where: str
    labels: np.ndarray
    rows: Any
    column: str

    def read(self, index: int) -> Image.Image:
        entry, name = self._entry(index), f"{self.where} {index + 1}"
        if entry.get("bytes"):
            return decoded(BytesIO(entry["bytes"]), name)
        if entry.get("path"):
            return decoded(Path(entry["path"]), name)
        raise InputError(f"picture {name} cannot be read (there is none)")

    def name(self, index: int) -> str:
        return str(index)

    def content(self, index: int) -> bytes:
        return self._entry(index).get("bytes") or b""

    def _entry(self, index: int) -> Mapping[str, Any]:
        return self.rows[index][self.column] or {}


def _columns(name: str, features: Mapping[str, Any]) -> tuple[str, str]:
    """Of pictures and of classes."""
    import datasets

    pictures = [c for c, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [c for c, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not classes and isinstance(features.get(_LABEL), datasets.Value):
        classes = [_LABEL]
    for found, what in ((pictures, "Image"), (classes, "ClassLabel")):
        if len(found) != 1:
            raise InputError(
                f"data {name}: has {counted(len(found), 'column')} of the feature {what} among "
                f"{', '.join(features)}; it must have one"
            )
    return pictures[0], classes[0]


def _undecoded(rows: Any, column: str) -> Any:
    import datasets

    return rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _values(where: str, rows: Any, column: str) -> list[Any]:
    if column not in rows.features:
        raise InputError(f"{where} has no column {column}")
    if not len(rows):
        raise InputError(f"{where} has nothing in it")
    return list(rows.select_columns([column])[:][column])


def _numbered(feature: Any, values: list[Any]) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Labels by what a row may say, and names by label: of a ``ClassLabel`` its own."""
    names = getattr(feature, "names", None)
    if names is not None:
        return {i: i for i in range(len(names))}, tuple(map(str, names))
    known = sorted({value for value in values if value is not None})
    return {value: i for i, value in enumerate(known)}, tuple(map(str, known))


def _labels(where: str, values: list[Any], number: Mapping[Any, int]) -> np.ndarray:
    for i, value in enumerate(values, start=1):
        if value not in number:
            raise InputError(f"{where} {i}: its class is {value!r}, which is none to train on")
    return np.array([number[value] for value in values])
