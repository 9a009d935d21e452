"""Data sets by name: chosen, and brought into a model's input format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from d2ft_sched.errors import InputError
from runtime.data.choice import Limits, OnBadFile
from runtime.data.dataset import Dataset, Split
from runtime.data.documents import DOCUMENT_PREFIXES, is_document_name, read_documents
from runtime.data.input_format import InputFormat, PictureFormat, SequenceFormat, TokenFormat
from runtime.data.parts import Part, choose, labels_of, put_together, without
from runtime.data.pictures.image_folder import PREFIX as FOLDER_PREFIX
from runtime.data.pictures.image_folder import image_folder
from runtime.data.pictures.load_pictures import (
    BadFiles,
    PictureReading,
    find_bad_files,
    load_pictures,
)
from runtime.data.pictures.mnist_subset import MNIST_SUBSET, mnist_subset
from runtime.data.pictures.picture_source import Source
from runtime.data.pictures.saved_pictures import PREFIX as SAVED_PREFIX
from runtime.data.pictures.saved_pictures import saved_pictures
from runtime.data.pictures.torchvision_sets import torchvision_source
from runtime.data.sequences import make_sequences
from runtime.data.texts import TABLES, Texts, TextSource, is_text_name, text_source, tokenize

_TEXT_NAMES = ", ".join(f"{prefix}:PATH" for prefix in TABLES)


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
    reading: PictureReading | None = None,
    bad_files: BadFiles | None = None,
) -> Dataset:
    """A data set. In memory it takes ``3 * image_size ** 2`` bytes a picture, ``4 * num_tokens`` a
    text, ``12 * num_tokens`` a sequence whose tokens are foretold, 16 if packed; pictures that do
    not fit are read as they are needed.

    Args:
        name: ``mnist-subset``, ``imagefolder:PATH``, ``hf-dataset:PATH`` or a data set of
            torchvision (``cifar10``); for texts ``newsgroups20:PATH`` and what else
            `runtime.data.texts` knows; for decoders those, and what `runtime.data.documents` knows.
        input_format: pictures are cropped and resized as it says; texts become token numbers, cut
            or filled up, or sequences as `runtime.data.sequences` makes them.
        num_train, num_test: how many samples of each part, classes as equal as they can be;
            default all of them, split as `choose_samples` does where the source has no parts.
        seed: of that choice, and of the split where the source has none.
        data_root: folder of a torchvision data set; default ``data``.
        download: let torchvision fetch it.
        held_out: leave the test samples alone and split the training samples instead, so that
            settings can be chosen without a look at the test samples.
        on_bad_file: end at a picture that cannot be read, or a text without a token; or leave it
            out, and say so in `Dataset.skipped`. To know which are left out, all pictures are read
            once; else those that are not held in memory are found bad when they are needed.
        progress: told how many samples of how many are read.
        wanted: from the numbers of training and test samples to which pictures of each are read,
            bool ``[num_samples]``; the others are left blank. Default all. Texts are all read: to
            know where the others' are padded, every rank needs them.
        reading: of pictures, in memory or not and changed or not; default in memory where they fit
            and as they are. Texts are held in memory.
        bad_files: pictures that are left out where `bad_pictures` has looked; no more is looked at.

    Raises:
        InputError: unknown or unreadable data, data of another kind than the model takes, a broken
            picture, or fewer samples than asked for.
    """
    report = progress or (lambda done, total: None)
    reading = reading or PictureReading()
    if not isinstance(input_format, PictureFormat) and reading.is_asked_for:
        raise InputError(
            "--augment and --workers are for pictures; the model takes texts, which are held in "
            "memory as they are"
        )
    limits = Limits(num_train, num_test, seed, held_out, on_bad_file)
    if isinstance(input_format, SequenceFormat):
        return _load_sequences(name, input_format, limits, report)
    if isinstance(input_format, TokenFormat):
        return _load_texts(_text_source(name), input_format, limits, report)
    source = _picture_source(name, data_root or Path("data"), download)
    return load_pictures(source, input_format, limits, reading, report, wanted, bad_files)


def bad_pictures(
    name: str,
    *,
    num_train: int | None,
    num_test: int | None,
    seed: int,
    data_root: Path | None,
    download: bool,
    num_workers: int,
    progress: Callable[[int, int], None],
    share: slice,
) -> BadFiles:
    """Which of the pictures that `load_data` would choose cannot be read; it says what each is.

    Args:
        num_workers: processes that read them.
        share: of the positions in each part: those that are looked at.

    Raises:
        InputError: as `load_data`.
    """
    source = _picture_source(name, data_root or Path("data"), download)
    limits = Limits(num_train, num_test, seed, held_out=False, on_bad_file="skip")
    return find_bad_files(source, limits, num_workers, progress, share)


def _text_source(name: str) -> TextSource:
    _refuse_without_classes(name)
    if not is_text_name(name):
        raise InputError(f"data {name!r} are no texts ({_TEXT_NAMES}); the model takes texts")
    return text_source(name)


def _picture_source(name: str, data_root: Path, download: bool) -> Source:
    if name == MNIST_SUBSET:
        return mnist_subset()
    if name.startswith(FOLDER_PREFIX):
        return image_folder(Path(name.removeprefix(FOLDER_PREFIX)))
    if name.startswith(SAVED_PREFIX):
        return saved_pictures(name)
    _refuse_without_classes(name)
    if is_text_name(name):
        raise InputError(f"data {name!r} are texts; the model takes pictures")
    return torchvision_source(name, data_root, download)


def _refuse_without_classes(name: str) -> None:
    if is_document_name(name):
        raise InputError(
            f"data {name!r} are texts without classes; they are for a decoder, which foretells them"
        )


def _load_sequences(
    name: str,
    sequence_format: SequenceFormat,
    limits: Limits,
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
    limits: Limits,
    report: Callable[[int, int], None],
) -> Dataset:
    chosen = choose(source, limits)
    tested = source.train if chosen.is_split or source.test is None else source.test
    num_all = len(chosen.train) + len(chosen.test)

    def read(texts: Texts, indices: np.ndarray, num_before: int) -> Part:
        inputs, errors = tokenize(
            [texts.texts[i] for i in indices],
            token_format,
            lambda done: report(num_before + done, num_all),
        )
        if errors and limits.on_bad_file == "fail":
            raise InputError(next(iter(errors.values())))
        kept = without(len(indices), errors)
        split = Split(inputs[torch.from_numpy(kept)], labels_of(texts, indices[kept]))
        return Part(texts, indices[kept], split, tuple(errors.values()))

    train = read(source.train, chosen.train, 0)
    test = read(tested, chosen.test, len(chosen.train))
    return put_together(source, train, test, chosen.parts)
