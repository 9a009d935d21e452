"""Data sets by name: chosen, brought into a model's input format and held in memory."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from d2ft_sched.errors import InputError
from runtime.data.choice import choose_samples
from runtime.data.dataset import Dataset, Split
from runtime.data.documents import DOCUMENT_PREFIXES, is_document_name, read_documents
from runtime.data.fingerprint import Fingerprint, digest_of_samples, digest_of_texts
from runtime.data.image_folder import PREFIX, image_folder
from runtime.data.input_format import InputFormat, PictureFormat, SequenceFormat, TokenFormat
from runtime.data.mnist_subset import MNIST_SUBSET, mnist_subset
from runtime.data.pictures import Pictures, Source
from runtime.data.sequences import make_sequences
from runtime.data.texts import TABLES, Texts, TextSource, is_text_name, text_source, tokenize
from runtime.data.torchvision_sets import torchvision_source
from runtime.torch_device import memory_bytes

_TEXT_NAMES = ", ".join(f"{prefix}:PATH" for prefix in TABLES)
OnBadFile = Literal["fail", "skip"]
"""What to do about a sample that cannot be read."""


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
    on_bad_file: OnBadFile = "fail",
    progress: Callable[[int, int], None] | None = None,
    wanted: Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Dataset:
    """A data set in memory: ``3 * image_size ** 2`` bytes a picture, ``4 * num_tokens`` a text,
    ``12 * num_tokens`` a sequence whose tokens are foretold, 16 if packed.

    Args:
        name: ``mnist-subset``, ``imagefolder:PATH`` or a data set of torchvision (``cifar10``);
            for texts ``newsgroups20:PATH`` and what else `runtime.data.texts` knows; for decoders
            those, and what `runtime.data.documents` knows.
        input_format: pictures are cropped to a square at their middle and resized; texts become
            token numbers, cut or filled up, or sequences as `runtime.data.sequences` makes them.
        num_train, num_test: how many samples of each part, classes as equal as they can be;
            default all of them, split as `choose_samples` does where the source has no parts.
        seed: of that choice, and of the split where the source has none.
        data_root: folder of a torchvision data set; default ``data``.
        download: let torchvision fetch it.
        held_out: leave the test samples alone and split the training samples instead, so that
            settings can be chosen without a look at the test samples.
        on_bad_file: end at a picture that cannot be read, or a text without a token; or leave it
            out, and say so in `Dataset.skipped`. To know which are left out, all pictures are read.
        progress: told how many samples of how many are read.
        wanted: from the numbers of training and test samples to which pictures of each are read,
            bool ``[num_samples]``; the others are left blank. Default all. Texts are all read: to
            know where the others' are padded, every rank needs them.

    Raises:
        InputError: unknown or unreadable data, data of another kind than the model takes, a broken
            picture, fewer samples than asked for, or more than memory can hold.
    """
    report = progress or (lambda done, total: None)
    limits = _Limits(num_train, num_test, seed, held_out, on_bad_file)
    if isinstance(input_format, SequenceFormat):
        return _load_sequences(name, input_format, limits, report)
    if is_document_name(name):
        raise InputError(
            f"data {name!r} are texts without classes; they are for a decoder, which foretells them"
        )
    if is_text_name(name):
        if not isinstance(input_format, TokenFormat):
            raise InputError(f"data {name!r} are texts; the model takes pictures")
        return _load_texts(text_source(name), input_format, limits, report)
    if not isinstance(input_format, PictureFormat):
        raise InputError(f"data {name!r} are no texts ({_TEXT_NAMES}); the model takes texts")
    source = _source(name, data_root or Path("data"), download)
    return _load_pictures(source, input_format.image_size, limits, report, wanted)


@dataclass(frozen=True)
class _Limits:
    """Which samples are wanted; as `load_data` takes them."""

    num_train: int | None
    num_test: int | None
    seed: int
    held_out: bool
    on_bad_file: OnBadFile

    def choose(
        self, source: Source | TextSource
    ) -> tuple[np.ndarray, np.ndarray, Pictures | Texts, str]:
        """Indices to train and to test on, what the latter are of, and where the split is from."""
        held_out = self.held_out or source.test is None
        test_labels = None if held_out or source.test is None else source.test.labels
        train, test = choose_samples(
            source.train.labels,
            test_labels,
            self.num_train,
            self.num_test,
            np.random.default_rng(self.seed),
        )
        if held_out or source.test is None:
            return train, test, source.train, f"drawn with seed {self.seed}"
        return train, test, source.test, source.parts


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one part as they were read, and why some could not be, by position."""

    samples: Pictures | Texts
    indices: np.ndarray
    inputs: Tensor
    errors: Mapping[int, str]

    def whole(self) -> "_Part":
        """Without those that could not be read."""
        if not self.errors:
            return self
        kept = np.setdiff1d(np.arange(len(self.indices)), list(self.errors))
        return replace(self, indices=self.indices[kept], inputs=self.inputs[kept], errors={})

    @property
    def split(self) -> Split:
        labels = self.samples.labels[self.indices].astype(np.int64)
        return Split(self.inputs, torch.from_numpy(labels))

    @property
    def digest(self) -> str:
        own = self.samples
        return digest_of_samples(own.labels, self.indices, own.name, own.content)


def _dataset(source: Source | TextSource, train: _Part, test: _Part, parts: str) -> Dataset:
    skipped = (*train.errors.values(), *test.errors.values())
    train, test = train.whole(), test.whole()
    for part, what in ((train, "train"), (test, "test")):
        if not len(part.indices):
            raise InputError(f"data {source.name}: no sample to {what} on could be read")
    names = digest_of_texts(source.class_names)
    return Dataset(
        name=source.name,
        train=train.split,
        test=test.split,
        class_names=source.class_names,
        fingerprint=Fingerprint(names, train.digest, test.digest),
        parts=parts,
        skipped=skipped,
    )


def _source(name: str, data_root: Path, download: bool) -> Source:
    if name == MNIST_SUBSET:
        return mnist_subset()
    if name.startswith(PREFIX):
        return image_folder(Path(name.removeprefix(PREFIX)))
    return torchvision_source(name, data_root, download)


def _load_sequences(
    name: str,
    sequence_format: SequenceFormat,
    limits: _Limits,
    report: Callable[[int, int], None],
) -> Dataset:
    if not (is_document_name(name) or is_text_name(name)):
        known = ", ".join(f"{prefix}:PATH" for prefix in DOCUMENT_PREFIXES)
        raise InputError(
            f"data {name!r} are no texts ({known}, {_TEXT_NAMES}); a decoder needs them"
        )
    return make_sequences(
        name,
        read_documents(name),
        sequence_format,
        num_train=limits.num_train,
        num_test=limits.num_test,
        seed=limits.seed,
        held_out=limits.held_out,
        skips=limits.on_bad_file == "skip",
        report=report,
    )


def _load_texts(
    source: TextSource,
    token_format: TokenFormat,
    limits: _Limits,
    report: Callable[[int, int], None],
) -> Dataset:
    train, test, test_texts, parts = limits.choose(source)
    num_all = len(train) + len(test)

    def read(texts: Texts, indices: np.ndarray, num_before: int) -> _Part:
        inputs, errors = tokenize(
            [texts.texts[i] for i in indices],
            token_format,
            lambda done: report(num_before + done, num_all),
        )
        if errors and limits.on_bad_file == "fail":
            raise InputError(next(iter(errors.values())))
        return _Part(texts, indices, inputs, errors)

    assert isinstance(test_texts, Texts)
    return _dataset(source, read(source.train, train, 0), read(test_texts, test, len(train)), parts)


def _load_pictures(
    source: Source,
    image_size: int,
    limits: _Limits,
    report: Callable[[int, int], None],
    wanted: Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None,
) -> Dataset:
    train, test, test_pictures, parts = limits.choose(source)
    train_read, test_read = np.ones(len(train), bool), np.ones(len(test), bool)
    skips = limits.on_bad_file == "skip"
    if wanted is not None and not skips:
        train_read, test_read = wanted(len(train), len(test))
    num_train_read = int(train_read.sum())
    num_all = num_train_read + int(test_read.sum())
    needed, there_are = num_all * 3 * image_size**2, memory_bytes(torch.device("cpu"))
    if needed > there_are / 2:
        raise InputError(
            f"{num_all} pictures of {image_size} pixels take {needed / 1e9:.1f} GB, over half of "
            f"this machine's {there_are / 1e9:.1f} GB; choose fewer"
        )

    def read(
        pictures: Pictures, indices: np.ndarray, is_read: np.ndarray, num_before: int
    ) -> _Part:
        inputs = torch.zeros(len(indices), 3, image_size, image_size, dtype=torch.uint8)
        errors: dict[int, str] = {}

        def fill(target: int) -> None:
            try:
                picture = pictures.read(int(indices[target]))
            except InputError as error:
                if not skips:
                    raise
                errors[target] = str(error)
                return
            inputs[target] = picture_to_tensor(picture, image_size)

        with ThreadPoolExecutor() as pool:
            for num_read, _ in enumerate(pool.map(fill, np.flatnonzero(is_read).tolist()), start=1):
                report(num_before + num_read, num_all)
        return _Part(pictures, indices, inputs, dict(sorted(errors.items())))

    assert isinstance(test_pictures, Pictures)
    own = read(source.train, train, train_read, 0)
    return _dataset(source, own, read(test_pictures, test, test_read, num_train_read), parts)


def picture_to_tensor(picture: Image.Image, image_size: int) -> Tensor:
    """From RGB to uint8 ``[3, image_size, image_size]``: a square at its middle, resized."""
    square = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
