"""Folders of classes: parts by their names, links, odd folders and files, and what is skipped."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2ft_sched.errors import InputError
from runtime.data.class_folders import TEST_NAMES, TRAIN_NAMES, is_called
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.data.pictures.image_folder import image_folder

SIZE = PictureFormat(8)


def write_picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_classes(folder: Path, per_class: int = 2, names: tuple[str, ...] = ("a", "b")) -> None:
    for number, name in enumerate(names):
        for i in range(per_class):
            write_picture(folder / name / f"{i}.png", 100 * number + i)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"), ("train", "dev"), ("training", "testing"), ("train", "Val"),
        ("TRAINING", "Validation"), ("train2017", "val2017"), ("train_images", "test_images"),
        ("Train", "eval"),
    ],
)  # fmt: skip
def test_parts_go_by_any_usual_name(tmp_path: Path, train: str, test: str) -> None:
    write_classes(tmp_path / train, 3)
    write_classes(tmp_path / test, 1)
    data = load_data(f"imagefolder:{tmp_path}", SIZE)
    assert data.class_names == ("a", "b")
    assert (len(data.train), len(data.test)) == (6, 2)
    assert f"folders {train} and {test}" in data.describe_split()


@given(
    st.sampled_from((*TRAIN_NAMES, *TEST_NAMES)),
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.sampled_from(("", "2017", "_images", "-set", " 1", ".d")),
)
def test_names_of_parts_are_known_in_any_case(name: str, upper: list[bool], more: str) -> None:
    written = "".join(c.upper() if up else c for c, up in zip(name, upper, strict=False)) + more
    known = [n for n in (*TRAIN_NAMES, *TEST_NAMES) if is_called(written, n)]
    assert known == ([name] if more != ".d" else [])


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    write_classes(tmp_path, 2, ("car", "plane", "train"))
    assert image_folder(tmp_path).class_names == ("car", "plane", "train")


def test_parts_that_cannot_be_told_are_refused_and_others_are_named(tmp_path: Path) -> None:
    for name in ("train", "holdout"):
        write_classes(tmp_path / "odd" / name)
    with pytest.raises(InputError, match="train and holdout hold folders of the same names"):
        image_folder(tmp_path / "odd")
    for name in ("train", "Train", "test"):
        write_classes(tmp_path / "twice" / name)
    with pytest.raises(InputError, match="has Train and train; leave one of them"):
        image_folder(tmp_path / "twice")
    for name in ("train", "test", "val"):
        write_classes(tmp_path / "three" / name)
    assert image_folder(tmp_path / "three").parts == "folders train and test; val left alone"
    write_classes(tmp_path / "alone" / "train")
    assert image_folder(tmp_path / "alone").class_names == ("a", "b")
    write_classes(tmp_path / "spaces", 1, ("B", "B ", "c"))
    with pytest.raises(InputError, match="has two folders of class 'B', by spaces or"):
        image_folder(tmp_path / "spaces")
    write_classes(tmp_path / "letters" / "train", 1, ("caf\u00e9", "c"))
    write_classes(tmp_path / "letters" / "test", 1, ("cafe\u0301", "c"))
    assert image_folder(tmp_path / "letters").class_names == ("c", "caf\u00e9")


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    write_classes(root, 2)
    for i in range(6):
        write_picture(store / "more" / f"{i}.png", 50 + i)
    (root / "a" / "linked").symlink_to(store, target_is_directory=True)
    (root / "a" / "again").symlink_to(store / "more", target_is_directory=True)
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "a" / "self").symlink_to(root / "a", target_is_directory=True)
    (store / "more" / "back").symlink_to(store, target_is_directory=True)
    (root / "b" / "everything").symlink_to("/", target_is_directory=True)
    (root / "b" / "nowhere").symlink_to("nowhere")
    (root / "b" / "folder.jpg").mkdir()
    write_picture(root / "b" / "folder.jpg" / "inside.png", 7)
    (root / "c.png").symlink_to(store, target_is_directory=True)
    source = image_folder(root)
    assert source.class_names == ("a", "b", "c.png")
    assert np.bincount(source.train.labels).tolist() == [8, 3, 6]
    with pytest.raises(InputError, match="there is no such folder"):
        image_folder(root / "b" / "nowhere")
    with pytest.raises(InputError, match="there is no such folder"):
        image_folder(tmp_path / ("x" * 300))


@pytest.mark.parametrize("kind", ["loop", "pipe", "device", "text"])
def test_what_is_no_picture_is_named_or_skipped(tmp_path: Path, kind: str) -> None:
    write_classes(tmp_path, 5)
    odd = tmp_path / "b" / "odd.png"
    if kind == "loop":
        odd.symlink_to(odd)
    elif kind == "pipe":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    else:
        odd.write_text("no picture")
    with pytest.raises(InputError, match=f"{odd}:? cannot be read"):
        load_data(f"imagefolder:{tmp_path}", SIZE)
    data = load_data(f"imagefolder:{tmp_path}", SIZE, on_bad_file="skip")
    assert len(data.train) + len(data.test) == 10
    (line,) = data.skipped
    assert str(odd) in line
    for part in (data.train, data.test):
        assert not (part.inputs == 0).all(dim=(1, 2, 3)).any()
    for path in tmp_path.rglob("*.png"):
        path.unlink()
        path.write_text("no picture")
    with pytest.raises(InputError, match="no sample to train on could be read"):
        load_data(f"imagefolder:{tmp_path}", SIZE, on_bad_file="skip")


def test_a_fingerprint_knows_classes_files_and_contents(tmp_path: Path) -> None:
    def prints(change: str) -> tuple[str, str, str]:
        root = tmp_path / change
        for name in ("a", "b"):
            for i in range(5):
                path = root / name / f"{i}.bmp"
                write_picture(path, i + 10 * (name == "b"))
        if change == "exchanged":
            (root / "a").rename(root / "x")
            (root / "b").rename(root / "a")
            (root / "x").rename(root / "b")
        if change == "moved":
            (root / "a" / "3.bmp").rename(root / "b" / "7.bmp")
        if change == "renamed":
            (root / "b").rename(root / "c")
        if change == "grown":
            for path in root.rglob("3.bmp"):
                path.write_bytes(path.read_bytes() + b"0")
        data = load_data(f"imagefolder:{root}", SIZE)
        return data.fingerprint.class_names, data.fingerprint.train, data.fingerprint.test

    names, train, test = prints("as it is")
    assert prints("the same elsewhere") == (names, train, test)
    assert prints("exchanged")[0] == names
    assert prints("exchanged")[1] != train
    assert prints("moved")[1] != train
    assert prints("renamed")[0] != names
    grown = prints("grown")
    assert (grown[1], grown[2]) != (train, test)


def test_ranks_that_read_a_part_have_the_same_fingerprint(tmp_path: Path) -> None:
    write_classes(tmp_path, 5)
    whole = load_data(f"imagefolder:{tmp_path}", SIZE)
    part = load_data(
        f"imagefolder:{tmp_path}",
        SIZE,
        wanted=lambda train, test: (np.arange(train) < 1, np.zeros(test, bool)),
    )
    assert part.fingerprint == whole.fingerprint
    assert not torch.equal(part.train.inputs, whole.train.inputs)
