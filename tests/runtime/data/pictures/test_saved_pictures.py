"""Pictures that Hugging Face's ``datasets`` saved to disk."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2ft_sched.errors import InputError
from runtime.data.dataset import Wanted
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.data.pictures.load_pictures import PictureReading

datasets = pytest.importorskip("datasets")
FORM = PictureFormat(8)
NAMES = ["cat", "dog"]


def picture(i: int) -> bytes:
    pixels = np.full((10, 12, 3), (40 + 10 * (i // 2), 200 * (i % 2), 60), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "png")
    return written.getvalue()


def rows(number: int, labels: object = None, names: list[str] | None = NAMES) -> object:
    given = {
        "id": [str(i) for i in range(number)],
        "image": [{"bytes": picture(i), "path": None} for i in range(number)],
        "label": labels or [i % 2 for i in range(number)],
    }
    own = datasets.Dataset.from_dict(given).cast_column("image", datasets.Image())
    return own.cast_column("label", datasets.ClassLabel(names=names)) if names else own


def load(folder: Path, **options: object) -> object:
    return load_data(f"hf-dataset:{folder}", FORM, **options)


@pytest.mark.parametrize("num_workers", [None, 1])
def test_splits_pictures_and_classes_are_read(tmp_path: Path, num_workers: int | None) -> None:
    saved = datasets.DatasetDict(
        {"train": rows(12).select(range(2, 12)), "validation": rows(4), "extra": rows(2)}
    )
    saved.save_to_disk(tmp_path)
    data = load(tmp_path, reading=PictureReading(num_workers=num_workers), seed=1)
    assert data.class_names == ("cat", "dog")
    assert data.parts == "splits train and validation"
    assert (len(data.train), len(data.test)) == (10, 4)
    every = np.arange(10)
    for samples, least in ((data.train, 50), (data.test, 40)):
        (batch,) = samples.read([Wanted(every[: len(samples)])])
        stored = batch.of(every[: len(samples)])
        assert torch.equal(stored[:, 1, 4, 4] == 200, samples.labels == 1)
        assert stored[:, 0].min() == least


def test_names_stand_for_classes_where_no_feature_has_them(tmp_path: Path) -> None:
    labels = ["eel", "ant", "eel", "ant", "bee", "bee"]
    rows(6, labels, names=None).save_to_disk(tmp_path)
    data = load(tmp_path)
    assert data.class_names == ("ant", "bee", "eel")
    assert sorted([*data.train.labels.tolist(), *data.test.labels.tolist()]) == [0, 0, 1, 1, 2, 2]


def without_pictures() -> object:
    return rows(4).remove_columns("image")


def without_classes() -> object:
    return rows(4).remove_columns("label")


def of_one_class() -> object:
    return rows(4, ["a"] * 4, names=None)


def unlabelled() -> object:
    return rows(4, [0, -1, 1, 0], names=None).cast_column("label", datasets.ClassLabel(names=NAMES))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (without_pictures, "has 0 columns of the feature Image among id, label; it must have one"),
        (without_classes, "has 0 columns of the feature ClassLabel among id, image"),
        (of_one_class, "has 1 class; it needs at least 2"),
        (unlabelled, "train: row 2: its class is -1, which is none to train on"),
    ],
)
def test_other_data_sets_are_refused(tmp_path: Path, make: Callable[[], object], said: str) -> None:
    make().save_to_disk(tmp_path)
    with pytest.raises(InputError, match=f"data hf-dataset:{tmp_path}: {said}"):
        load(tmp_path)


def test_a_broken_picture_is_named_by_its_row(tmp_path: Path) -> None:
    own = rows(8).to_dict()
    own["image"] = [{"bytes": b"broken", "path": None}] * 2 + own["image"][2:6]
    own["image"] += [None] * 2
    broken = datasets.Dataset.from_dict(own).cast_column("image", datasets.Image())
    broken.cast_column("label", datasets.ClassLabel(names=NAMES)).save_to_disk(tmp_path)
    data = load(tmp_path, on_bad_file="skip")
    assert sorted(data.skipped)[0] == (
        f"picture hf-dataset:{tmp_path}: train: row 1 cannot be read (not a picture)"
    )
    assert len(data.skipped) == 4
    with pytest.raises(InputError, match="there is no"):
        load(tmp_path / "nowhere")
