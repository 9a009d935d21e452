"""Classification data sets of torchvision by name."""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from PIL import Image
from torchvision.datasets import VisionDataset

from d2ft_sched.errors import InputError
from runtime.data.pictures.picture_source import Source, to_rgb

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
            f"data {name!r} are neither mnist-subset, imagefolder:PATH, hf-dataset:FOLDER nor a "
            f"data set of torchvision with parts for training and testing{hint}"
        )
    train, test = (
        _open(name, known[name.lower()], part, data_root, download)
        for part in _parts(known[name.lower()])
    )
    labels = _labels(name, train)
    names = getattr(train, "classes", None) or [str(k) for k in range(int(labels.max()) + 1)]
    return Source(
        name=name,
        train=TorchvisionPictures(labels, train),
        test=TorchvisionPictures(_labels(name, test), test),
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


@dataclass(frozen=True, eq=False)
class TorchvisionPictures:
    """`runtime.data.pictures.picture_source.Pictures` of a data set of torchvision.

    Attributes:
        labels: int ``[num_pictures]``.
        dataset: that reads them.
    """

    labels: np.ndarray
    dataset: VisionDataset

    def read(self, index: int) -> Image.Image:
        try:
            return to_rgb(self.dataset[index][0])
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"picture {index} of {self.dataset.root} cannot be read ({error})"
            ) from None

    def name(self, index: int) -> str:
        """Its file below the data set's folder, where it has one; else its number."""
        for attribute in _FILE_ATTRIBUTES:
            files = getattr(self.dataset, attribute, None)
            if files is not None and len(files) == len(self.dataset):
                entry = files[index]
                path = str(entry[0] if isinstance(entry, tuple) else entry)
                return f"{index} {path.removeprefix(str(self.dataset.root))}"
        return str(index)

    def content(self, index: int) -> bytes:
        data = getattr(self.dataset, "data", None)
        if data is None or len(data) != len(self.dataset):
            return b""
        return np.asarray(data[index]).tobytes()
