"""Data sets by name: chosen, brought into a model's input format and held in memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from d2ft_sched.errors import InputError
from runtime.data.dataset import Dataset, Split
from runtime.data.image_folder import PREFIX, image_folder
from runtime.data.input_format import InputFormat, PictureFormat, TokenFormat
from runtime.data.mnist_subset import MNIST_SUBSET, mnist_subset
from runtime.data.pictures import Pictures, Source
from runtime.data.texts import TABLES, Texts, TextSource, is_text_name, text_source, tokenize
from runtime.data.torchvision_sets import torchvision_source
from runtime.torch_device import memory_bytes

_TEXT_NAMES = ", ".join(f"{prefix}:PATH" for prefix in TABLES)
TEST_SHARE = 0.2
"""Share of the samples that are for testing where neither source nor user says."""


def load_data(
    name: str,
    input_format: InputFormat,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    seed: int = 0,
    data_root: Path | None = None,
    download: bool = False,
    held_out: bool = False,
    progress: Callable[[int, int], None] | None = None,
    wanted: Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Dataset:
    """A data set in memory: ``3 * image_size ** 2`` bytes a picture, ``4 * num_tokens`` a text.

    Args:
        name: ``mnist-subset``, ``imagefolder:PATH`` or a data set of torchvision (``cifar10``);
            for texts ``newsgroups20:PATH`` and what else `runtime.data.texts` knows.
        input_format: pictures are cropped to a square at their middle and resized; texts become
            token numbers, cut or filled up.
        num_train, num_test: how many samples of each part, classes as equal as they can be;
            default all of them.
        seed: of that choice, and of the split where the source has none.
        data_root: folder of a torchvision data set; default ``data``.
        download: let torchvision fetch it.
        held_out: leave the test samples alone and split the training samples instead, so that
            settings can be chosen without a look at the test samples.
        progress: told how many samples of how many are read.
        wanted: from the numbers of training and test samples to which pictures of each are read,
            bool ``[num_samples]``; the others are left blank. Default all. Texts are all read: to
            know where the others' are padded, every rank needs them.

    Raises:
        InputError: unknown or unreadable data, data of another kind than the model takes, a broken
            picture, fewer samples than asked for, or more than memory can hold.
    """
    report = progress or (lambda done, total: None)
    if is_text_name(name):
        if not isinstance(input_format, TokenFormat):
            raise InputError(f"data {name!r} are texts; the model takes pictures")
        texts = text_source(name)
        if held_out:
            texts = replace(texts, test=None)
        return _load_texts(texts, input_format, num_train, num_test, seed, report)
    if not isinstance(input_format, PictureFormat):
        raise InputError(f"data {name!r} are no texts ({_TEXT_NAMES}); the model takes texts")
    image_size = input_format.image_size
    source = _source(name, data_root or Path("data"), download)
    if held_out:
        source = replace(source, test=None)
    rng = np.random.default_rng(seed)
    test_labels = None if source.test is None else source.test.labels
    train, test = _choose(source.train.labels, test_labels, num_train, num_test, rng)
    test_pictures = source.train if source.test is None else source.test
    read = (np.ones(len(train), bool), np.ones(len(test), bool))
    if wanted is not None:
        read = wanted(len(train), len(test))
    num_train_read = int(read[0].sum())
    num_all = num_train_read + int(read[1].sum())
    needed, there_are = num_all * 3 * image_size**2, memory_bytes(torch.device("cpu"))
    if needed > there_are / 2:
        raise InputError(
            f"{num_all} pictures of {image_size} pixels take {needed / 1e9:.1f} GB, over half of "
            f"this machine's {there_are / 1e9:.1f} GB; choose fewer"
        )
    return Dataset(
        name=source.name,
        train=_read(source.train, train, read[0], image_size, lambda n: report(n, num_all)),
        test=_read(
            test_pictures, test, read[1], image_size, lambda n: report(num_train_read + n, num_all)
        ),
        class_names=source.class_names,
    )


def _source(name: str, data_root: Path, download: bool) -> Source:
    if name == MNIST_SUBSET:
        return mnist_subset()
    if name.startswith(PREFIX):
        return image_folder(Path(name.removeprefix(PREFIX)))
    return torchvision_source(name, data_root, download)


def _load_texts(
    source: TextSource,
    token_format: TokenFormat,
    num_train: int | None,
    num_test: int | None,
    seed: int,
    report: Callable[[int, int], None],
) -> Dataset:
    test_labels = None if source.test is None else source.test.labels
    rng = np.random.default_rng(seed)
    train, test = _choose(source.train.labels, test_labels, num_train, num_test, rng)
    num_all = len(train) + len(test)

    def read(texts: Texts, indices: np.ndarray, num_before: int) -> Split:
        inputs = tokenize(
            [texts.texts[i] for i in indices],
            token_format,
            lambda done: report(num_before + done, num_all),
        )
        return Split(inputs, torch.from_numpy(texts.labels[indices].astype(np.int64)))

    test_texts = source.train if source.test is None else source.test
    return Dataset(
        name=source.name,
        train=read(source.train, train, 0),
        test=read(test_texts, test, len(train)),
        class_names=source.class_names,
    )


def _choose(
    labels: np.ndarray,
    test_labels: np.ndarray | None,
    num_train: int | None,
    num_test: int | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the training and into the test samples; the same samples if not split."""
    if test_labels is not None:
        train = choose_balanced(labels, num_train, rng, "training")
        return train, choose_balanced(test_labels, num_test, rng, "test")
    if num_test is None:
        num_test = max(1, round(TEST_SHARE * len(labels)))
    test = choose_balanced(labels, num_test, rng, "test")
    rest = np.setdiff1d(np.arange(len(labels)), test)
    return rest[choose_balanced(labels[rest], num_train, rng, "training")], test


def choose_balanced(
    labels: np.ndarray, num_samples: int | None, rng: np.random.Generator, purpose: str
) -> np.ndarray:
    """Indices of `num_samples` samples in random order, classes as equal as they can be.

    Args:
        labels: int ``[num_candidates]``.
        num_samples: how many; None for all.
        rng: source of the choice.
        purpose: what they are for, to say so in an error.

    Raises:
        InputError: there are not as many.
    """
    shuffled = rng.permutation(len(labels))
    if num_samples is None:
        num_samples = len(labels)
    if not 1 <= num_samples <= len(labels):
        raise InputError(
            f"{num_samples} samples for {purpose} are asked for; there are {len(labels)}, "
            f"and at least 1 is needed"
        )
    rank_in_class = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank_in_class[members] = np.arange(len(members))
    class_by_class = shuffled[np.argsort(rank_in_class[shuffled], kind="stable")]
    return rng.permutation(class_by_class[:num_samples])


def _read(
    pictures: Pictures,
    indices: np.ndarray,
    is_read: np.ndarray,
    image_size: int,
    report: Callable[[int], None],
) -> Split:
    images = torch.zeros(len(indices), 3, image_size, image_size, dtype=torch.uint8)

    def fill(target: int) -> None:
        images[target] = picture_to_tensor(pictures.read(int(indices[target])), image_size)

    with ThreadPoolExecutor() as pool:
        for num_read, _ in enumerate(pool.map(fill, np.flatnonzero(is_read)), start=1):
            report(num_read)
    return Split(images, torch.from_numpy(pictures.labels[indices].astype(np.int64)))


def picture_to_tensor(picture: Image.Image, image_size: int) -> Tensor:
    """From RGB to uint8 ``[3, image_size, image_size]``: a square at its middle, resized."""
    square = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
