"""Reading pictures: memory beside holding them, and speed beside timm's own loader.

Both are of JPEG files of 500 pixels, few distinct ones under many names. Memory is what a process
and its workers grow by while all are read once at 224 pixels, shared pages counted once; held in
memory they are what ``d2ft finetune`` has of pictures that fit. Speed is that of the pictures of an
epoch from the start of two workers to the last normalised mini-batch of 64, ours and timm's
``create_loader`` in turns, so that a busy machine slows them alike; the ratio is the median of
those of the rounds.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import ImageDataset, create_loader
from torch import Tensor

from runtime.data.dataset import Samples, Wanted, runs
from runtime.data.input_format import PictureFormat
from runtime.data.load_data import load_data
from runtime.data.pictures.load_pictures import PictureReading
from runtime.data.pictures.transforms import RAND_AUGMENT, Augment
from runtime.families.vit import normalize

NUM_WORKERS, BATCH, NUM_CLASSES, NUM_DISTINCT = 2, 64, 10, 40
SIDE = 500
FORM = PictureFormat(224, crop_share=0.9)
MOST_GROWN_BYTES, TARGET = 500e6, 1.0
AUGMENTS: tuple[Augment, ...] = ("none", "timm")
_LOOK_EVERY_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_reading", description=__doc__)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--of-an-epoch", type=int, default=1024, help="pictures, for speed")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), given.pictures)
        _memory(Path(folder), given.pictures)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), given.of_an_epoch)
        _speed(Path(folder), given.of_an_epoch, given.repeats)


def write_pictures(folder: Path, number: int) -> None:
    """Files in a folder of each class; each distinct one is written once and linked."""
    rng = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        (folder / str(label)).mkdir()
    for i in range(number):
        path = folder / str(i % NUM_CLASSES) / f"{i}.jpg"
        if i < NUM_DISTINCT:
            coarse = Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
        else:
            source = i % NUM_DISTINCT
            os.link(folder / str(source % NUM_CLASSES) / f"{source}.jpg", path)


def _load(folder: Path, num_workers: int | None, augment: Augment = "none") -> Samples:
    reading = PictureReading(augment, num_workers)
    return load_data(f"imagefolder:{folder}", FORM, num_test=NUM_CLASSES, reading=reading).train


def _memory(folder: Path, number: int) -> None:
    console = Console()
    console.print(f"{number} pictures of {SIDE} px, read at {FORM.image_size} px; memory grows by")
    for name, num_workers in (("read as needed", NUM_WORKERS), ("held", None)):
        grown, seconds = _grown_bytes(folder, num_workers)
        verdict = ""
        if num_workers is not None:
            is_met = grown < MOST_GROWN_BYTES
            verdict = (
                f" (target below {MOST_GROWN_BYTES / 1e6:.0f} MB) {'ok' if is_met else 'MISSED'}"
            )
        console.print(f"{name:16}{grown / 1e6:8.0f} MB in {seconds:.0f} s{verdict}")


def _grown_bytes(folder: Path, num_workers: int | None) -> tuple[float, float]:
    """The most that a process that reads all once grows by, and its seconds."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_read_all, args=(folder, num_workers, theirs)
    )
    process.start()
    assert process.pid is not None
    ours.recv()
    before = most = _tree_bytes(process.pid)
    start = time.perf_counter()
    ours.send("go")
    while not ours.poll(_LOOK_EVERY_S):
        most = max(most, _tree_bytes(process.pid))
    seconds = time.perf_counter() - start
    process.join()
    return most - before, seconds


def _read_all(folder: Path, num_workers: int | None, parent: Connection) -> None:
    torch.set_num_threads(1)
    parent.send("ready")
    parent.recv()
    for _ in _ours(_load(folder, num_workers), 0):
        pass
    parent.send("done")


def _tree_bytes(pid: int) -> float:
    """Memory of a process and of those that it started; pages that n of them share count once."""
    total = 0.0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return total
    total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total + sum(_tree_bytes(int(child)) for child in children)


def _speed(folder: Path, number: int, repeats: int) -> None:
    table = Table("pictures", "d2ft", "timm", "d2ft / timm, median and range")
    ratios = []
    for augment in AUGMENTS:
        ours, theirs = _load(folder, NUM_WORKERS, augment), ImageDataset(str(folder))
        sources: dict[str, Callable[[], Iterator[Tensor]]] = {
            "d2ft": partial(_ours, ours, 1),
            "timm": partial(_timms, theirs, augment),
        }
        rates: dict[str, list[float]] = {name: [] for name in sources}
        for repeat in range(repeats):
            for name in list(sources)[:: -1 if repeat % 2 else 1]:
                rates[name].append(_rate(sources[name]))
        own = np.array(rates["d2ft"]) / np.array(rates["timm"])
        ratios.append(float(np.median(own)))
        each = [f"{statistics.median(rate):.0f}/s" for rate in rates.values()]
        what = "as evaluated" if augment == "none" else "--augment timm"
        table.add_row(what, *each, f"{ratios[-1]:.2f} ({own.min():.2f} to {own.max():.2f})")
    console = Console()
    console.print(f"{number} pictures, {NUM_WORKERS} workers, {repeats} rounds")
    console.print(table)
    verdict = "ok" if min(ratios) >= TARGET else "MISSED"
    console.print(f"target: at least {TARGET} times timm's {verdict}")


def _rate(source: Callable[[], Iterator[Tensor]]) -> float:
    """Pictures a second."""
    start = time.perf_counter()
    number = sum(len(batch) for batch in source())
    return number / (time.perf_counter() - start)


def _ours(samples: Samples, epoch: int) -> Iterator[Tensor]:
    every = list(runs(len(samples), BATCH))
    read = samples.read(Wanted(rows, epoch) for rows in every)
    for rows, batch in zip(every, read, strict=True):
        yield normalize(batch.of(rows), FORM.mean, FORM.std)


def _timms(dataset: ImageDataset, augment: Augment) -> Iterator[Tensor]:
    options: dict[str, Any] = {"interpolation": FORM.interpolation, "crop_pct": FORM.crop_share}
    if augment == "timm":
        options = {"auto_augment": RAND_AUGMENT, "re_prob": 0.25, "interpolation": "random"}
    loader = create_loader(
        dataset,
        (3, FORM.image_size, FORM.image_size),
        BATCH,
        is_training=augment == "timm",
        num_workers=NUM_WORKERS,
        persistent_workers=False,
        device=torch.device("cpu"),
        **options,
    )
    for batch, _ in loader:
        yield batch


if __name__ == "__main__":
    main()
