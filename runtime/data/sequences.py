"""From texts to sequences of one length, padded or packed, to train and to test on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from runtime.data.choice import TEST_SHARE
from runtime.data.dataset import IGNORED, Dataset, Split
from runtime.data.document_tokens import DocumentTokens, TokenText
from runtime.data.documents import Document, Source
from runtime.data.fingerprint import Fingerprint, digest_of_arrays
from runtime.data.input_format import SequenceFormat

_DOCUMENTS_PER_CALL = 256
_OPEN_SEQUENCES = 64
"""Sequences that are not full yet and may take one more text."""


@dataclass
class _Pieces:
    """Texts as they go into sequences, none longer than one; and what happened to others."""

    pieces: list[TokenText]
    errors: list[str]
    num_shortened: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces)


def make_sequences(
    name: str,
    source: Source,
    sequence_format: SequenceFormat,
    *,
    num_train: int | None,
    num_test: int | None,
    seed: int,
    held_out: bool,
    skips: bool,
    report: Callable[[int, int], None],
) -> Dataset:
    """The sequences of a data set, int32, with labels, int64 ``[num_sequences, num_tokens]``.

    Texts are drawn with the seed. Where the source has no test part, so many as `num_test` takes,
    or `TEST_SHARE` of them, are for testing; a single text is cut there. A plain text that is
    longer than a sequence is cut into several; a pair or a conversation loses its end.

    Args:
        name: of the data set.
        source: its documents.
        sequence_format: length, tokenizer, and whether packed.
        num_train, num_test: how many sequences; None for all.
        seed: of the order.
        held_out: leave the test part alone and split the training part.
        skips: leave out texts of which nothing is to be learnt, and say so; else end there.
        report: told how many texts of how many are done.

    Raises:
        InputError: fewer sequences than asked for, or a text of which nothing is to be learnt.
    """
    for number, what in ((num_train, "training"), (num_test, "test")):
        if number is not None and number < 1:
            raise InputError(
                f"{counted(number, 'sequence')} for {what} are asked for; at least 1 is needed"
            )
    tokens = DocumentTokens(sequence_format)
    rng = np.random.default_rng(seed)
    taker = _Taker(tokens, sequence_format, skips, report, len(source.train))
    own = [source.train[i] for i in rng.permutation(len(source.train))]
    parts = source.parts
    if source.test is not None and not held_out:
        taker.num_all += len(source.test)
        test = taker.take([source.test[i] for i in rng.permutation(len(source.test))], num_test)
        train = taker.take(own, num_train)
    elif len(own) == 1:
        parts = "the beginning and the end of one text"
        train, test = _cut_in_two(taker, own[0])
    else:
        parts = f"drawn with seed {seed}"
        share = max(1, round(TEST_SHARE * len(own)))
        test = taker.take(own if num_test is not None else own[:share], num_test)
        train = taker.take(own[taker.num_done :], num_train)
    splits = [
        _laid_out(pieces, sequence_format, tokens.padding_id, number, what)
        for pieces, number, what in ((train, num_train, "training"), (test, num_test, "test"))
    ]
    digests = [digest_of_arrays((split.inputs.numpy(), split.labels.numpy())) for split in splits]
    shortened = train.num_shortened + test.num_shortened
    layout = "packed" if sequence_format.is_packed else "padded"
    if shortened:
        layout += f", {shortened} of the texts lose their ends"
    return Dataset(
        name=name,
        train=splits[0],
        test=splits[1],
        class_names=(),
        fingerprint=Fingerprint("", *digests),
        parts=parts,
        skipped=(*train.errors, *test.errors),
        layout=layout,
    )


class _Taker:
    """Makes pieces of documents until there are enough."""

    def __init__(
        self,
        tokens: DocumentTokens,
        sequence_format: SequenceFormat,
        skips: bool,
        report: Callable[[int, int], None],
        num_all: int,
    ) -> None:
        self.num_all = num_all
        self.num_done = 0
        self._tokens, self._format, self._skips, self._report = (
            tokens,
            sequence_format,
            skips,
            report,
        )

    def take(self, documents: Sequence[tuple[str, Document]], number: int | None) -> _Pieces:
        """Pieces of documents, at most of those that fill `number` sequences."""
        taken = _Pieces([], [])
        for start in range(0, len(documents), _DOCUMENTS_PER_CALL):
            some = documents[start : start + _DOCUMENTS_PER_CALL]
            for (where, _), text in zip(some, self._tokens(some), strict=True):
                if number is not None and self._fill(taken, number):
                    return taken
                self.num_done += 1
                self.cut(taken, where, text)
            self._report(min(self.num_done, self.num_all), self.num_all)
        return taken

    def text(self, document: tuple[str, Document]) -> TokenText:
        """A document's tokens."""
        return self._tokens([document])[0]

    def cut(self, taken: _Pieces, where: str, text: TokenText) -> None:
        """Add a text's pieces, or why there are none."""
        most = self._format.num_tokens
        if not text.may_be_cut and len(text.ids) > most:
            taken.num_shortened += 1
        last = len(text.ids) if text.may_be_cut else 1
        pieces = [
            TokenText(text.ids[i : i + most], text.is_counted[i : i + most], text.may_be_cut)
            for i in range(0, last, most)
        ]
        useful = [piece for piece in pieces if piece.is_counted[1:].any()]
        taken.pieces += useful
        if useful:
            return
        said = f"{where}: has no token to learn within a sequence of {counted(most, 'token')}"
        if not self._skips:
            raise InputError(f"{said}; take longer ones, or leave it out")
        taken.errors.append(said)

    def _fill(self, taken: _Pieces, number: int) -> bool:
        if self._format.is_packed:
            return taken.num_tokens >= number * self._format.num_tokens
        return len(taken.pieces) >= number


def _cut_in_two(taker: _Taker, document: tuple[str, Document]) -> tuple[_Pieces, _Pieces]:
    text = taker.text(document)
    at = round((1 - TEST_SHARE) * len(text.ids)) if text.may_be_cut else len(text.ids)
    if not 2 <= at <= len(text.ids) - 2:
        raise InputError(f"{document[0]}: is a single text, too short to train and to test on")
    parts = (_Pieces([], []), _Pieces([], []))
    for pieces, part in zip(parts, (slice(0, at), slice(at, None)), strict=True):
        taker.cut(pieces, document[0], TokenText(text.ids[part], text.is_counted[part], True))
    return parts


def _laid_out(
    taken: _Pieces,
    sequence_format: SequenceFormat,
    padding_id: int,
    number: int | None,
    what: str,
) -> Split:
    rows = _packed(taken.pieces, sequence_format.num_tokens) if sequence_format.is_packed else None
    if rows is None:
        rows = [[piece] for piece in taken.pieces]
    if len(rows) < (number or 1):
        raise InputError(
            f"{counted(number or 1, 'sequence')} for {what} are asked for; the texts make "
            f"{len(rows)} of {counted(sequence_format.num_tokens, 'token')}"
        )
    rows = rows[:number]
    num_tokens = sequence_format.num_tokens
    ids = np.full((len(rows), num_tokens), padding_id, np.int32)
    positions = np.zeros_like(ids)
    labels = np.full(ids.shape, IGNORED, np.int64)
    for i, row in enumerate(rows):
        at = 0
        for piece in row:
            end = at + len(piece.ids)
            ids[i, at:end] = piece.ids
            positions[i, at:end] = np.arange(end - at)
            labels[i, at + 1 : end] = np.where(piece.is_counted, piece.ids, IGNORED)[1:]
            at = end
        positions[i, at:] = np.arange(num_tokens - at)
    inputs = np.stack((ids, positions), axis=1) if sequence_format.is_packed else ids
    return Split(torch.from_numpy(inputs), torch.from_numpy(labels))


def _packed(pieces: Sequence[TokenText], num_tokens: int) -> list[list[TokenText]]:
    """Pieces side by side, each in the first of the last open sequences that has room for it."""
    rows: list[list[TokenText]] = []
    room: list[int] = []
    still_open: list[int] = []
    for piece in pieces:
        size = len(piece.ids)
        at = next((i for i in still_open if room[i] >= size), None)
        if at is None:
            at = len(rows)
            rows.append([])
            room.append(num_tokens)
            still_open = [*still_open[-_OPEN_SEQUENCES + 1 :], at]
        rows[at].append(piece)
        room[at] -= size
        still_open = [i for i in still_open if room[i] > 1]
    return rows
