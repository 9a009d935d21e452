"""Pictures of a source: chosen, and held in memory or read as they are needed."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from d2ft_sched.errors import InputError
from runtime.data.choice import Limits
from runtime.data.dataset import Dataset, Split
from runtime.data.input_format import PictureFormat
from runtime.data.parts import Part, choose, labels_of, put_together, without
from runtime.data.pictures.picture_source import Pictures, Source
from runtime.data.pictures.streamed import StreamedPictures, unreadable
from runtime.data.pictures.transforms import Augment, Transforms
from runtime.torch_device import memory_bytes, num_processors

_CPU = torch.device("cpu")
_SHARE_HELD = {"cpu": 1 / 2, "cuda": 1 / 8}
"""Of a device's memory that pictures may take."""
_MOST_WORKERS = 8
"""That are started where nothing is said."""


@dataclass(frozen=True)
class PictureReading:
    """How pictures are to be read.

    Attributes:
        augment: what is done to training pictures, anew in every epoch.
        num_workers: processes that read them as they are needed, 0 for the one that trains; None to
            hold them in memory where they fit.
        device: where they are trained on.
        num_sharing: processes of this host that read alike.
    """

    augment: Augment = "none"
    num_workers: int | None = None
    device: torch.device = _CPU
    num_sharing: int = 1

    @property
    def is_asked_for(self) -> bool:
        """Whether anything but what pictures get anyway."""
        return self.augment != "none" or self.num_workers is not None

    @property
    def workers(self) -> int:
        """That read pictures as they are needed."""
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(_MOST_WORKERS, num_processors() // self.num_sharing))

    def why_streamed(self, held_bytes: int) -> str | None:
        """Why pictures of so many bytes are read as they are needed; None if they are held."""
        if self.num_workers is not None:
            return "as --workers says"
        for device in {device.type: device for device in (_CPU, self.device)}.values():
            there_are = memory_bytes(device)
            if device.type == "cpu":
                there_are //= self.num_sharing
            share = _SHARE_HELD[device.type]
            if held_bytes > share * there_are:
                whose = "a process of this machine" if device.type == "cpu" else "the GPU"
                return (
                    f"held in memory they would take {held_bytes / 1e9:.3g} GB, and {whose} has "
                    f"{there_are / 1e9:.3g} GB, of which pictures may take {share:.1%}"
                )
        return None


@dataclass(frozen=True)
class BadFiles:
    """Why some of the chosen pictures of a source cannot be read, by position in their part."""

    train: Mapping[int, str]
    test: Mapping[int, str]


def find_bad_files(
    source: Source,
    limits: Limits,
    num_workers: int,
    report: Callable[[int, int], None],
    share: slice,
) -> BadFiles:
    """Those among a share of the positions of each part; the pictures of the share are read."""
    chosen = choose(source, limits)
    tested = source.train if chosen.is_split or source.test is None else source.test
    positions = [np.arange(len(indices))[share] for indices in (chosen.train, chosen.test)]
    num_all, found = sum(map(len, positions)), list[dict[int, str]]()
    for pictures, indices, own, before in zip(
        (source.train, tested),
        (chosen.train, chosen.test),
        positions,
        (0, len(positions[0])),
        strict=True,
    ):
        tell = partial(_report_after, report, before, num_all)
        errors = unreadable(pictures, indices[own], num_workers, tell)
        found.append({int(own[row]): error for row, error in errors.items()})
    return BadFiles(*found)


def _report_after(report: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    report(before + done, total)


def load_pictures(
    source: Source,
    form: PictureFormat,
    limits: Limits,
    reading: PictureReading,
    report: Callable[[int, int], None],
    wanted: Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None,
    bad_files: BadFiles | None,
) -> Dataset:
    """Chosen pictures of a source; arguments as `runtime.data.load_data.load_data` takes them.

    Those that are changed in training are read anew in every epoch; the others are held in memory
    where they fit. What cannot be read is known before training either way.
    """
    chosen = choose(source, limits)
    skips = limits.on_bad_file == "skip" and bad_files is None
    known = [{}, {}] if bad_files is None else [bad_files.train, bad_files.test]
    kept = [
        indices[without(len(indices), bad)]
        for indices, bad in zip((chosen.train, chosen.test), known, strict=True)
    ]
    own = [np.ones(len(indices), bool) for indices in kept]
    if wanted is not None and not skips:
        own = [*wanted(*map(len, kept))]
    changes = reading.augment != "none"
    num_train, num_test = (int(one.sum()) for one in own)
    num_holdable = num_test + (0 if changes else num_train)
    why = reading.why_streamed(num_holdable * 3 * form.image_size**2)
    holds_train, holds_test = why is None and not changes, why is None
    at_once = [num_train * (skips or holds_train), num_test * (skips or holds_test)]
    transforms = Transforms(form, reading.augment, limits.seed)

    def part(pictures: Pictures, number: int, holds: bool) -> Part:
        tell = partial(_report_after, report, sum(at_once[:number]), sum(at_once))
        unread = _Unread(pictures, kept[number], own[number], transforms, tell)
        read = unread.held(skips) if holds else unread.streamed(skips, reading.workers)
        return replace(read, skipped=read.skipped + _lines(known[number]))

    tested = source.train if chosen.is_split or source.test is None else source.test
    return put_together(
        source,
        part(source.train, 0, holds_train),
        part(tested, 1, holds_test),
        chosen.parts,
        _said(reading, why, num_holdable, form.image_size),
    )


@dataclass(frozen=True, eq=False)
class _Unread:
    """Pictures of one part; `is_own` are those that this process needs, bool ``[num_pictures]``."""

    pictures: Pictures
    indices: np.ndarray
    is_own: np.ndarray
    transforms: Transforms
    report: Callable[[int], None]

    def held(self, skips: bool) -> Part:
        """In memory; what is not needed is left blank."""
        size = self.transforms.form.image_size
        inputs = torch.zeros(len(self.indices), 3, size, size, dtype=torch.uint8)
        errors: dict[int, str] = {}

        def fill(target: int) -> None:
            try:
                picture = self.pictures.read(int(self.indices[target]))
            except InputError as error:
                if not skips:
                    raise
                errors[target] = str(error)
                return
            inputs[target] = self.transforms.evaluated(picture)

        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(fill, np.flatnonzero(self.is_own).tolist()), start=1):
                self.report(done)
        kept, indices = self._kept(errors)
        stored = inputs[torch.from_numpy(kept)] if errors else inputs
        split = Split(stored, labels_of(self.pictures, indices))
        return Part(self.pictures, indices, split, _lines(errors))

    def streamed(self, skips: bool, num_workers: int) -> Part:
        """To be read as they are needed; where some may be skipped all are looked at first."""
        errors: dict[int, str] = {}
        if skips:
            errors = unreadable(self.pictures, self.indices, num_workers, self.report)
        _, indices = self._kept(errors)
        labels = labels_of(self.pictures, indices)
        streamed = StreamedPictures(self.pictures, indices, labels, self.transforms, num_workers)
        return Part(self.pictures, indices, streamed, _lines(errors))

    def _kept(self, errors: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray]:
        kept = without(len(self.indices), errors)
        return kept, self.indices[kept]


def _lines(errors: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(errors[position] for position in sorted(errors))


def _said(reading: PictureReading, why: str | None, num_holdable: int, image_size: int) -> str:
    """Whether pictures are held or read as they are needed, in one line."""
    held_bytes = num_holdable * 3 * image_size**2
    if why is None and reading.augment == "none":
        return (
            f"pictures are held in memory: {num_holdable} of {image_size} pixels, "
            f"{held_bytes / 1e6:.3g} MB"
        )
    who = f"{reading.workers} workers" if reading.workers else "the training process"
    if reading.workers == 1:
        who = "one worker"
    by = f"read as they are needed, by {who}"
    if why is not None:
        return f"pictures are {by}: {why}"
    return (
        f"pictures to train on are {by}, for they are changed in every epoch (--augment "
        f"{reading.augment}); {num_holdable} to test on are held in memory, {held_bytes / 1e6:.3g} "
        f"MB"
    )
