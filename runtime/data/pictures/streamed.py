"""Pictures that are read while they are needed, by worker processes of torch's DataLoader."""

import ctypes
import mmap
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from d2ft_sched.errors import InputError
from runtime.data.dataset import Wanted, runs
from runtime.data.pictures.picture_source import Pictures
from runtime.data.pictures.transforms import Transforms, generators_kept

_CPU = torch.device("cpu")
_AT_ONCE = 64
"""Most pictures that a worker reads before it hands them over; several share a larger batch."""
_AHEAD = 2
"""Such pieces that every worker may be ahead."""
_STARTED_BY = "fork" if sys.platform == "linux" else None
"""Forked workers share with this process what is loaded, some 400 MB and the seconds that it takes
to load; None leaves it to Python."""
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's ``malloc.h``."""
_MAPPED_BYTES = 2048 * 1024
"""What a worker allocates above this is mapped, so that it is given back when freed; glibc's own
limit grows to 32 MiB, and its heap to whatever small things lie between pictures."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, eq=False)
class StreamedPictures:
    """`runtime.data.dataset.Samples` of which no more is in memory than workers are ahead.

    That is `_AHEAD` pieces of `_AT_ONCE` pictures a worker, the batch that is given, and whatever
    one reader or another has not yet let go.

    Attributes:
        pictures: what they are of.
        indices: which, int ``[num_samples]``.
        labels: int64 ``[num_samples]``.
        transforms: what is made of them.
        num_workers: processes that read each time; 0 for this one.
        device: where they are given.
    """

    pictures: Pictures
    indices: np.ndarray
    labels: Tensor
    transforms: Transforms
    num_workers: int
    device: torch.device = _CPU

    @property
    def in_memory(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "StreamedPictures":
        return replace(self, labels=self.labels.to(device), device=device)

    def own(self, is_own: np.ndarray) -> "StreamedPictures":
        return self

    def read(self, wanted: Iterable[Wanted]) -> Generator["ReadPictures", None, None]:
        asked: deque[Wanted] = deque()

        def pieces() -> Iterator[Wanted]:
            for one in wanted:
                asked.append(one)
                for own in _even_runs(len(one.rows)):
                    yield Wanted(one.rows[own], one.epoch)

        parts: list[Tensor] = []
        for piece in _answers(self._piece, pieces(), self.num_workers, self.device):
            if isinstance(piece, str):
                raise InputError(piece)
            while not len(asked[0].rows):
                yield self._batch(asked.popleft().rows, [])
            parts.append(piece.to(self.device, non_blocking=True))
            if sum(map(len, parts)) == len(asked[0].rows):
                yield self._batch(asked.popleft().rows, parts)
                parts = []
        for empty in asked:
            yield self._batch(empty.rows, [])

    def _batch(self, rows: np.ndarray, parts: list[Tensor]) -> "ReadPictures":
        if len(parts) == 1:
            return ReadPictures(rows, parts[0])
        size = self.transforms.form.image_size
        room = _room(torch.Size((len(rows), 3, size, size)), self.device)
        return ReadPictures(rows, torch.cat(parts, out=room) if parts else room)

    def _piece(self, wanted: Wanted) -> Tensor | str:
        """uint8 ``[n, 3, image_size, image_size]``, or why one of them cannot be read; in memory
        that processes share where a worker reads."""
        given = []
        with generators_kept():
            for row in wanted.rows.tolist():
                try:
                    picture = self.pictures.read(int(self.indices[row]))
                except InputError as error:
                    return str(error)
                if wanted.epoch:
                    given.append(self.transforms.trained(picture, wanted.epoch, row))
                else:
                    given.append(self.transforms.evaluated(picture))
        return cast(Tensor, default_collate(given))


@dataclass(frozen=True, eq=False)
class ReadPictures:
    """A `runtime.data.dataset.Batch` of the pictures that were wanted.

    Attributes:
        rows: which of their part, int ``[n]``.
        stored: uint8 ``[n, 3, image_size, image_size]``.
    """

    rows: np.ndarray
    stored: Tensor

    def of(self, rows: np.ndarray) -> Tensor:
        if np.array_equal(rows, self.rows):
            return self.stored
        order = np.argsort(self.rows)
        places = order[np.searchsorted(self.rows, rows, sorter=order)]
        shape = torch.Size((len(rows), *self.stored.shape[1:]))
        room = _room(shape, self.stored.device)
        chosen = torch.from_numpy(places).to(self.stored.device)
        return torch.index_select(self.stored, 0, chosen, out=room)


def _even_runs(number: int) -> Iterator[np.ndarray]:
    """Places of so many pictures in as few pieces as may be, of sizes one apart at most."""
    if number:
        yield from np.array_split(np.arange(number), -(-number // _AT_ONCE))


def _room(shape: torch.Size, device: torch.device) -> Tensor:
    """Place for pictures, uint8, on a processor in a mapping of its own.

    One that is freed goes back to the system; on the heap smaller things take of its place, so that
    the next does not fit there, and a process grew by 600 MB while it read 20,000 pictures.
    """
    if device != _CPU or not shape.numel():
        return torch.empty(shape, dtype=torch.uint8, device=device)
    mapping = mmap.mmap(-1, shape.numel(), access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapping, dtype=torch.uint8).view(shape)


def unreadable(
    pictures: Pictures, indices: np.ndarray, num_workers: int, report: Callable[[int], None]
) -> dict[int, str]:
    """Why some of chosen pictures cannot be read, by position; all of them are read once.

    Args:
        pictures: what they are of.
        indices: which, int ``[num_samples]``.
        num_workers: processes that read.
        report: told how many are done.
    """
    look, found, num_done = _Looking(pictures, indices), dict[int, str](), 0
    for num_looked_at, errors in _answers(look, runs(len(indices), _AT_ONCE), num_workers):
        found |= errors
        num_done += num_looked_at
        report(num_done)
    return found


@dataclass(frozen=True, eq=False)
class _Looking:
    """Reads pictures to know whether they can be read."""

    pictures: Pictures
    indices: np.ndarray

    def __call__(self, rows: np.ndarray) -> tuple[int, dict[int, str]]:
        errors: dict[int, str] = {}
        for row in rows.tolist():
            try:
                self.pictures.read(int(self.indices[row]))
            except InputError as error:
                errors[row] = str(error)
        return len(rows), errors


class _Asked(TorchDataset[_Answer], Generic[_Answer]):
    """What a DataLoader takes for a data set: the answer to a question in place of an index."""

    def __init__(self, answer: Callable[..., _Answer]) -> None:
        self._answer = answer

    def __getitem__(self, question: object) -> _Answer:
        return self._answer(question)


def _answers(
    answer: Callable[..., _Answer],
    questions: Iterable[object],
    num_workers: int,
    device: torch.device = _CPU,
) -> Iterator[_Answer]:
    """The answers of workers to questions, in their order.

    Raises:
        InputError: a worker died, as for want of memory.
    """
    loader = DataLoader(
        _Asked(answer),
        batch_size=None,
        sampler=questions,
        num_workers=num_workers,
        multiprocessing_context=_STARTED_BY if num_workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_begin_worker,
        prefetch_factor=_AHEAD if num_workers else None,
        pin_memory=device.type == "cuda",
    )
    try:
        yield from loader
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise InputError(
            f"a process that reads pictures ended ({' '.join(str(error).split())}); give fewer "
            f"--workers, or more (shared) memory"
        ) from None


def _as_it_is(answer: object) -> object:
    return answer


def _begin_worker(worker: int) -> None:
    """A worker ends when its parent says so, which may want to end a step first on Ctrl-C.

    What it frees of pictures goes back to the system, where its C library can do that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_heap = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_heap is not None:
        set_heap(_MMAP_THRESHOLD, _MAPPED_BYTES)
