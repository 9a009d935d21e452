"""Pictures read as they are needed: the same ones, in order, by whatever workers."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from d2ft_sched.errors import InputError
from d2ft_sched.model.partition import partition_by_heads
from d2ft_sched.model.workload import Workload
from d2ft_sched.schedule.operations import Operation
from runtime.data.dataset import Dataset, Wanted
from runtime.data.input_format import PictureFormat, TokenFormat
from runtime.data.load_data import bad_pictures, load_data
from runtime.data.pictures.image_folder import FolderPictures, PathTable
from runtime.data.pictures.load_pictures import BadFiles, PictureReading
from runtime.data.pictures.streamed import StreamedPictures
from runtime.data.pictures.transforms import Transforms
from runtime.models.build import build_model, shape_of
from runtime.training.events import Stepped
from runtime.training.finetune_settings import FineTuneSettings
from runtime.training.loop import train, training_minibatches
from runtime.training.whole_model import WholeModel

NAMES = ("cat", "dog", "eel")
FORM = PictureFormat(12, crop_share=0.9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of fifteen pictures of unequal sizes."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / name).mkdir()
        for i in range(15):
            size = (20 + i, 30 - i, 3)
            pixels = rng.integers(256, size=size, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def load(folder: Path, num_workers: int | None, **options: object) -> Dataset:
    reading = {"augment": options.pop("augment", "none"), "num_workers": num_workers}
    return load_data(f"imagefolder:{folder}", FORM, reading=PictureReading(**reading), **options)


def given(samples: object, wanted: Sequence[Wanted]) -> Iterator[Tensor]:
    for one, batch in zip(wanted, samples.read(iter(wanted)), strict=True):
        yield batch.of(one.rows)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.data.pictures.streamed._AT_ONCE", 16)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_pictures_are_those_in_memory(folder: Path, num_workers: int) -> None:
    held, streamed = load(folder, None), load(folder, num_workers)
    assert isinstance(streamed.train, StreamedPictures)
    assert streamed.fingerprint == held.fingerprint
    assert held.reading == "pictures are held in memory: 45 of 12 pixels, 0.0194 MB"
    assert streamed.reading.endswith("as --workers says")
    rng = np.random.default_rng(1)
    for own, other in ((streamed.train, held.train), (streamed.test, held.test)):
        assert torch.equal(own.labels, other.labels)
        wanted = [Wanted(rng.permutation(len(own))[:n], epoch) for n, epoch in WANTED]
        for ours, theirs in zip(given(own, wanted), given(other, wanted), strict=True):
            assert torch.equal(ours, theirs)


WANTED = ((3, 0), (0, 1), (36, 1), (17, 2), (1, 0), (0, 3))
"""Sizes of batches, empty ones and such of several pieces among them, and their epochs."""


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("augment", ["light", "timm"])
def test_a_changed_picture_is_the_same_whoever_reads_it_with_whatever_others(
    folder: Path, augment: str
) -> None:
    rows = np.arange(36)
    whole, again, other = (
        load(folder, workers, augment=augment, seed=3).train for workers in (0, 2, None)
    )
    ((first,), (second,)) = (list(given(whole, [Wanted(rows, epoch)])) for epoch in (1, 2))
    assert (first != second).flatten(1).any(1).all()
    mixed = rows[::-1].copy()
    parts = list(given(again, [Wanted(mixed[:20], 1), Wanted(mixed[20:], 2)]))
    assert torch.equal(parts[0], first[mixed[:20]])
    assert torch.equal(parts[1], second[mixed[20:]])
    assert isinstance(other, StreamedPictures)
    (unchanged,) = given(whole, [Wanted(rows)])
    (held,) = given(load(folder, None, seed=3).train, [Wanted(rows)])
    assert torch.equal(unchanged, held)


def test_what_is_given_can_be_asked_for_in_another_order_and_in_part(folder: Path) -> None:
    samples = load(folder, 0).train
    rows = np.array([9, 2, 30, 4])
    (batch,) = samples.read([Wanted(rows)])
    (held,) = load(folder, None).train.read([Wanted(rows)])
    assert torch.equal(batch.of(np.array([4, 9])), held.of(np.array([4, 9])))
    assert batch.of(np.array([], dtype=int)).shape == (0, 3, 12, 12)


def test_pictures_are_streamed_where_memory_is_small(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = 45 * 3 * 12**2 * 2
    monkeypatch.setattr("runtime.data.pictures.load_pictures.memory_bytes", lambda device: memory)
    assert load(folder, None).train.in_memory is not None
    memory -= 2
    data = load(folder, None)
    assert (data.train.in_memory, data.test.in_memory) == (None, None)
    assert "held in memory they would take 1.94e-05 GB" in data.reading
    only_changed = load(folder, None, augment="light")
    assert only_changed.train.in_memory is None
    assert only_changed.test.in_memory is not None
    assert "changed in every epoch (--augment light); 9 to test on are held" in only_changed.reading
    assert PictureReading(num_sharing=2).why_streamed(memory // 4 + 1) is not None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_pictures_are_left_out_alike_or_named_when_they_are_needed(
    folder: Path, num_workers: int
) -> None:
    for name in ("3", "7", "8", "11"):
        (folder / "dog" / f"{name}.png").write_bytes(b"no picture")
    held, streamed = (load(folder, n, on_bad_file="skip") for n in (None, num_workers))
    assert len(streamed.skipped) == 4
    assert streamed.skipped == held.skipped
    assert streamed.fingerprint == held.fingerprint
    rows = np.arange(len(held.train))
    (ours,), (theirs,) = (list(given(d.train, [Wanted(rows)])) for d in (streamed, held))
    assert torch.equal(ours, theirs)
    strict = load(folder, num_workers).train
    reading = strict.read([Wanted(np.arange(len(strict)))])
    with pytest.raises(InputError, match=r"dog/\d+.png cannot be read \(not a picture\)$"):
        next(reading)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_more_is_read_ahead_than_workers_may(folder: Path, num_workers: int) -> None:
    samples, asked = load(folder, num_workers).train, []

    def without_end() -> Iterator[Wanted]:
        while True:
            asked.append(len(asked))
            yield Wanted(np.arange(20))

    reading = samples.read(without_end())
    for _ in range(3):
        assert len(next(reading).of(np.arange(20))) == 20
    assert len(asked) <= 3 + num_workers * 4
    reading.close()


class Deadly:
    """Pictures that end the process that reads them."""

    labels = np.zeros(4, dtype=int)

    def read(self, index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_said_in_one_line() -> None:
    transforms, labels = Transforms(FORM), torch.zeros(4, dtype=torch.int64)
    samples = StreamedPictures(Deadly(), np.arange(4), labels, transforms, num_workers=1)
    with pytest.raises(InputError, match="a process that reads pictures ended") as caught:
        next(samples.read([Wanted(np.arange(4))]))
    assert "\n" not in str(caught.value)


def test_what_is_for_pictures_is_refused_for_texts() -> None:
    texts = TokenFormat(8, "nowhere", padding_id=0, vocabulary_size=9)
    for reading in (PictureReading("light"), PictureReading(num_workers=0)):
        with pytest.raises(InputError, match="--augment and --workers are for pictures"):
            load_data("newsgroups20:nowhere", texts, reading=reading)


def test_paths_of_any_bytes_are_kept() -> None:
    paths = [Path("a/b"), Path("ä"), Path("x\udcff/y z"), Path("c" * 300)]
    table = PathTable(paths)
    assert [table[i] for i in range(4)] == paths


@pytest.mark.parametrize("num_workers", [None, 0])
def test_shares_find_what_one_look_finds_and_no_more_is_read(
    folder: Path, num_workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("3", "7", "8", "11"):
        (folder / "dog" / f"{name}.png").write_bytes(b"no picture")
    whole, seen = load(folder, num_workers, on_bad_file="skip"), list[int]()
    read = FolderPictures.read
    monkeypatch.setattr(
        FolderPictures, "read", lambda self, index: seen.append(index) or read(self, index)
    )
    shares = []
    for rank in range(3):
        seen.clear()
        shares.append(
            bad_pictures(
                f"imagefolder:{folder}",
                num_train=None,
                num_test=None,
                seed=0,
                data_root=None,
                download=False,
                num_workers=0,
                progress=lambda done, total: None,
                share=slice(rank, None, 3),
            )
        )
        assert abs(len(seen) - 40 / 3) < 2
    train, test = ({k: v for own in parts for k, v in own.items()} for parts in (
        [own.train for own in shares], [own.test for own in shares]
    ))  # fmt: skip
    assert len(train) + len(test) == 4
    seen.clear()
    known = load(
        folder,
        num_workers,
        on_bad_file="skip",
        bad_files=BadFiles(train, test),
        wanted=lambda num_train, num_test: (
            np.arange(num_train) % 2 == 0,
            np.zeros(num_test, bool),
        ),
    )
    num_train = len(whole.train)
    assert len(seen) == (0 if num_workers == 0 else -(-num_train // 2))
    assert known.fingerprint == whole.fingerprint
    assert known.skipped == whole.skipped
    rows = np.arange(0, num_train, 2)
    (ours,), (theirs,) = (list(given(d.train, [Wanted(rows)])) for d in (known, whole))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("stops_at", [None, 1])
def test_who_reads_for_a_training_ends_with_it(folder: Path, stops_at: int | None) -> None:
    model = build_model("test_vit", image_size=16, num_classes=3, seed=0)
    shape = shape_of(model)
    workload = Workload(shape, partition_by_heads(shape, 1), (3, 3))
    data = load_data(
        f"imagefolder:{folder}", PictureFormat(16), reading=PictureReading(num_workers=1)
    )
    settings = FineTuneSettings(num_epochs=1, linear_probe=False)
    trainer = WholeModel(model, data, workload, settings, torch.device("cpu"))
    minibatches = training_minibatches(data.train, workload, settings.seed)
    schedule = np.full((workload.num_subnets, 2), Operation.FULL, dtype=np.int8)
    steps = train(trainer, minibatches, workload, schedule, settings)
    for event in steps:
        if isinstance(event, Stepped):
            assert len(multiprocessing.active_children()) == 1
            if event.step == stops_at:
                break
    steps.close()
    assert not multiprocessing.active_children()
