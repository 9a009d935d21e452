"""Texts to learn the next token from: pairs, conversations and plain texts, as they are written.

Where they are: ``jsonl:PATH``, JSON lines; ``textfiles:PATH``, a file or a folder of files
``.txt``; ``hf-dataset:PATH``, a folder that Hugging Face's ``datasets`` saved to disk; and the
tables of `runtime.data.texts`, whose classes are not asked for. A row of the first and third has
``prompt`` and ``completion``, ``messages`` (each with ``role`` and ``content``), or ``text``.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2ft_sched.errors import InputError
from d2ft_sched.files.text_file import read_text
from runtime.data.class_folders import split_folders
from runtime.data.saved_dataset import HF_DATASET, open_saved, parts_of
from runtime.data.texts import is_text_name, test_file_beside, text_source
from runtime.torch_device import memory_bytes

JSON_LINES, TEXT_FILES = "jsonl", "textfiles"
DOCUMENT_PREFIXES = (JSON_LINES, TEXT_FILES, HF_DATASET)

_MEMORY_PER_BYTE = 16
"""Bytes of memory that a byte of text takes at most, as text and as tokens."""


@dataclass(frozen=True)
class PlainText:
    """A text to learn as it is; may be cut into several sequences."""

    text: str


@dataclass(frozen=True)
class Pair:
    """A prompt, and what is to be learnt to follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """Messages with ``role`` and ``content``; what the assistant says is to be learnt."""

    messages: tuple[Mapping[str, str], ...]


Document = PlainText | Pair | Conversation


@dataclass(frozen=True)
class Source:
    """Documents by where they stand, for people.

    Attributes:
        train: to train on, or all there are if `test` is None.
        test: to test on, or None where the source does not tell them apart.
        parts: what tells them apart.
    """

    train: tuple[tuple[str, Document], ...]
    test: tuple[tuple[str, Document], ...] | None
    parts: str = ""


def is_document_name(name: str) -> bool:
    """Whether a data set's name begins as those of documents do."""
    return name.partition(":")[0] in DOCUMENT_PREFIXES and ":" in name


def read_documents(name: str) -> Source:
    """The documents of a data set by name, all in memory.

    Of a file ``X-train.jsonl`` or ``train.txt`` the test part is ``X-test.jsonl`` or ``test.txt``
    beside it, if that is there; of a folder, the folder ``test``; of a saved data set its split
    ``test`` or ``validation``.

    Raises:
        InputError: there is no such file or it is of another kind, a row is broken, or there is no
            text in it; with the number of the line.
    """
    prefix, _, place = name.partition(":")
    if is_text_name(name):
        return _of_table(name)
    path = Path(place)
    if not path.exists():
        raise InputError(f"data {name}: there is no {path}")
    if prefix == HF_DATASET:
        return _of_saved(name, path)
    read = _json_lines if prefix == JSON_LINES else _text_files
    if path.is_dir():
        parts = split_folders(path) if prefix == TEXT_FILES else None
        train, test = parts or (path, None)
    else:
        train, test = path, test_file_beside(path)
    if test is None:
        return Source(tuple(read(train)), None)
    return Source(tuple(read(train)), tuple(read(test)), f"{train.name} and {test.name}")


def _of_table(name: str) -> Source:
    source = text_source(name)

    def documents(texts: Any) -> tuple[tuple[str, Document], ...]:
        return tuple(
            (f"text {text[:40]!r}", PlainText(text.strip() + "\n")) for text in texts.texts
        )

    test = None if source.test is None else documents(source.test)
    return Source(documents(source.train), test, source.parts)


def _json_lines(path: Path) -> Iterator[tuple[str, Document]]:
    if path.is_dir():
        raise InputError(f"data {path}: is a folder; name a file of JSON lines")
    found = False
    for i, line in enumerate(_content(path, "a file of JSON lines").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"data {path}: line {i}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: is no JSON ({error})") from None
        found = True
        yield where, _document(row, where)
    if not found:
        raise InputError(f"data {path}: has nothing in it; a line is one object of JSON")


def _text_files(path: Path) -> Iterator[tuple[str, Document]]:
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"data {path}: has no file .txt in it")
    for file in files:
        text = _content(file, "a file of text")
        if not text.strip():
            raise InputError(f"data {file}: has nothing in it; a text needs words")
        yield f"data {file}", PlainText(text)


def _of_saved(name: str, path: Path) -> Source:
    saved = open_saved(name, path)

    def documents(split: str, rows: Any) -> tuple[tuple[str, Document], ...]:
        _check_bytes(f"data {name}", int(rows.data.nbytes))
        found = []
        for i, row in enumerate(rows, start=1):
            where = f"data {name}: {split}: row {i}"
            found.append((where, _document(row, where)))
        if not found:
            raise InputError(f"data {name}: split {split} has nothing in it")
        return tuple(found)

    train, *test = (documents(split, rows) for split, rows in saved.items())
    return Source(train, test[0] if test else None, parts_of(saved))


def _document(row: Any, where: str) -> Document:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: is {type(row).__name__}; it must be an object")
    given = {key: value for key, value in row.items() if value is not None}
    if "messages" in given:
        return Conversation(_messages(given["messages"], where))
    if "prompt" in given or "completion" in given:
        for key in ("prompt", "completion"):
            if key not in given:
                raise InputError(f"{where}: {key} is missing; a pair needs prompt and completion")
            if not isinstance(given[key], str):
                raise InputError(f"{where}: {key} is {given[key]!r:.60}; it must be a text")
        if not given["completion"].strip():
            raise InputError(f"{where}: completion is empty; there is nothing to learn")
        return Pair(given["prompt"], given["completion"])
    if isinstance(given.get("text"), str):
        if not given["text"].strip():
            raise InputError(f"{where}: text is empty; there is nothing to learn")
        return PlainText(given["text"])
    raise InputError(f"{where}: has neither prompt and completion, nor messages, nor text")


def _messages(value: Any, where: str) -> tuple[Mapping[str, str], ...]:
    right = "messages must be a list of objects with the texts role and content"
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: {right}")
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise InputError(f"{where}: {right}; one is {message!r:.60}")
    if not any(message["role"] == "assistant" for message in value):
        raise InputError(f"{where}: no message is the assistant's; there is nothing to learn")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _content(path: Path, kind: str) -> str:
    try:
        _check_bytes(f"data {path}", os.path.getsize(path))
        return read_text(path, kind)
    except OSError as error:
        raise InputError(f"data {path}: cannot be read ({error.strerror})") from None
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith("data ") else f"data {path}: {said}") from None


def _check_bytes(what: str, num_bytes: int) -> None:
    there_are = memory_bytes(torch.device("cpu"))
    if num_bytes * _MEMORY_PER_BYTE > there_are:
        raise InputError(
            f"{what}: has {num_bytes / 1e9:.3g} GB of text, which take up to "
            f"{num_bytes * _MEMORY_PER_BYTE / 1e9:.3g} GB of memory; this machine has "
            f"{there_are / 1e9:.3g} GB"
        )
