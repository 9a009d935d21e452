"""Classification data sets of torchvision by name."""

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from PIL import Image
from torchvision.datasets import VisionDataset

from d2ft_sched.errors import InputError
from runtime.data.pictures import Pictures, Source, to_rgb

_TEST_SPLITS = ("test", "val", "valid")
_FILE_ATTRIBUTES = ("_samples", "samples", "_image_files", "_images", "images")
_LABEL_ATTRIBUTES = ("targets", "_labels", "labels", "y")


def torchvision_source(name: str, data_root: Path, download: bool) -> Source:
    """A data set that has a part for training and one for testing.

    Args:
        name: the class in `torchvision.datasets`, in any case, such as ``cifar10``.
        data_root: folder that holds it, or is to hold it.
        download: let torchvision fetch it.

    Raises:
        InputError: unknown name, not a classification data set, or not there.
    """
    known = {
        key.lower(): value
        for key, value in vars(torchvision.datasets).items()
        if inspect.isclass(value) and issubclass(value, VisionDataset) and _parts(value)
    }
    if name.lower() not in known:
        close = get_close_matches(name.lower(), known, n=3)
        hint = f"; close to it are {', '.join(close)}" if close else ""
        raise InputError(
            f"data {name!r} are neither mnist-subset, imagefolder:PATH nor a data set of "
            f"torchvision with parts for training and testing{hint}"
        )
    train, test = (
        _open(name, known[name.lower()], part, data_root, download)
        for part in _parts(known[name.lower()])
    )
    labels = _labels(name, train)
    names = getattr(train, "classes", None) or [str(k) for k in range(int(labels.max()) + 1)]
    return Source(
        name=name,
        train=_pictures(labels, train),
        test=_pictures(_labels(name, test), test),
        class_names=tuple(str(n) for n in names),
        parts="parts of the data set",
    )


def _parts(dataset: type[VisionDataset]) -> list[dict[str, Any]]:
    """Arguments that select training and test part; empty where there are none."""
    parameters = inspect.signature(dataset).parameters
    if "train" in parameters:
        return [{"train": True}, {"train": False}]
    if "split" in parameters:
        text = inspect.getdoc(dataset) or ""
        test = next((s for s in _TEST_SPLITS if f'"{s}"' in text or f"``{s}``" in text), "test")
        return [{"split": "train"}, {"split": test}]
    return []


def _open(
    name: str, dataset: type[VisionDataset], part: dict[str, Any], root: Path, download: bool
) -> VisionDataset:
    options = dict(part)
    if "download" in inspect.signature(dataset).parameters:
        options["download"] = download
    try:
        return dataset(str(root), **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"data {name!r} cannot be had from {root} ({reason}); "
            f"name their folder with --data-root, or fetch them with --download"
        ) from None


def _labels(name: str, dataset: VisionDataset) -> np.ndarray:
    for attribute in _LABEL_ATTRIBUTES:
        values = getattr(dataset, attribute, None)
        if values is not None:
            labels = np.asarray(values)
            break
    else:
        samples = getattr(dataset, "_samples", None) or getattr(dataset, "samples", None)
        labels = np.array([label for _, label in samples]) if samples else np.array([])
    if labels.ndim != 1 or len(labels) != len(dataset) or labels.dtype.kind not in "iu":
        raise InputError(f"data {name!r} have no class for each picture; choose another data set")
    return labels.astype(int)


def _pictures(labels: np.ndarray, dataset: VisionDataset) -> Pictures:
    return Pictures(
        labels,
        lambda i: _picture(dataset, i),
        lambda i: _file_name(dataset, i),
        lambda i: _content(dataset, i),
    )


def _file_name(dataset: VisionDataset, index: int) -> str:
    """Of the picture's file below the data set's folder, where it has one; else its number."""
    for attribute in _FILE_ATTRIBUTES:
        files = getattr(dataset, attribute, None)
        if files is not None and len(files) == len(dataset):
            entry = files[index]
            path = str(entry[0] if isinstance(entry, tuple) else entry)
            return f"{index} {path.removeprefix(str(dataset.root))}"
    return str(index)


def _content(dataset: VisionDataset, index: int) -> bytes:
    data = getattr(dataset, "data", None)
    if data is None or len(data) != len(dataset):
        return b""
    return np.asarray(data[index]).tobytes()


def _picture(dataset: VisionDataset, index: int) -> Image.Image:
    try:
        return to_rgb(dataset[index][0])
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"picture {index} of {dataset.root} cannot be read ({error})") from None
