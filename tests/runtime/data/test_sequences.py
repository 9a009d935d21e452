"""Texts whose tokens are foretold: read, cut, padded and packed."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2ft_sched.errors import InputError
from runtime.data.dataset import IGNORED, Dataset
from runtime.data.document_tokens import TokenText
from runtime.data.input_format import PictureFormat, SequenceFormat
from runtime.data.load_data import load_data
from runtime.data.sequences import _packed
from tiny_tokenizer import SPECIAL, WORDS, save_tiny_tokenizer

UNK, THE, SEA, IS, BLUE, WHY, BECAUSE, OF, SKY, USER, ASSISTANT = range(len(WORDS))
BEGIN, END = (len(WORDS) + i for i in range(len(SPECIAL)))
N = IGNORED


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def _format(tokenizer: str, num_tokens: int = 8, *, packed: bool = False) -> SequenceFormat:
    return SequenceFormat(num_tokens, tokenizer, len(WORDS) + len(SPECIAL), packed)


def _jsonl(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def _samples(data: Dataset) -> list[tuple[list[int], list[int]]]:
    return [
        (own.tolist(), labels.tolist())
        for own, labels in zip(data.train.inputs, data.train.labels, strict=True)
    ]


def test_of_a_pair_only_the_completion_and_its_end_are_counted(
    tmp_path: Path, tokenizer: str
) -> None:
    name = _jsonl(tmp_path / "train.jsonl", {"prompt": "why is the sea", "completion": "blue"})
    _jsonl(tmp_path / "test.jsonl", {"prompt": "the sky", "completion": "is blue </s>"})
    data = load_data(name, _format(tokenizer))
    assert _samples(data) == [
        ([WHY, IS, THE, SEA, BLUE, END, END, END], [N, N, N, N, BLUE, END, N, N])
    ]
    # what a user wrote is text, also where it reads like a special token
    assert data.test.inputs.tolist() == [[THE, SKY, IS, BLUE, UNK, END, END, END]]
    assert data.class_names == ()
    assert data.parts == "train.jsonl and test.jsonl"
    assert "1 sequence of 8 tokens" in data.describe_split()
    assert "2 and 4 tokens are counted" in data.describe_split()


def test_of_a_conversation_what_the_assistant_says_is_counted(
    tmp_path: Path, tokenizer: str
) -> None:
    said = [("user", "why"), ("assistant", "because"), ("user", "is sky"), ("assistant", "blue")]
    row = {"messages": [{"role": role, "content": content} for role, content in said]}
    data = load_data(_jsonl(tmp_path / "a.jsonl", row, row), _format(tokenizer, 20))
    first = [BEGIN, USER, WHY, END, BEGIN, ASSISTANT, BECAUSE, END]
    second = [BEGIN, USER, IS, SKY, END, BEGIN, ASSISTANT, BLUE, END]
    own, labels = _samples(data)[0]
    assert own == [*first, *second, END, END, END]
    assert labels == [*[N] * 6, BECAUSE, END, *[N] * 7, BLUE, END, N, N, N]


def test_a_long_text_is_cut_into_sequences_and_a_single_one_is_split_at_its_end(
    tmp_path: Path, tokenizer: str
) -> None:
    file = tmp_path / "sea.txt"
    file.write_text("the sea is blue because of the blue sky " * 2)  # 18 tokens and the end
    data = load_data(f"textfiles:{file}", _format(tokenizer, 6))
    assert [own for own, _ in _samples(data)] == [
        [THE, SEA, IS, BLUE, BECAUSE, OF],
        [THE, BLUE, SKY, THE, SEA, IS],
        [BLUE, BECAUSE, OF, END, END, END],
    ]
    assert data.test.inputs.tolist() == [[THE, BLUE, SKY, END, END, END]]
    assert data.test.labels.tolist() == [[N, BLUE, SKY, END, N, N]]


def test_a_long_pair_loses_its_end_which_is_said(tmp_path: Path, tokenizer: str) -> None:
    rows = [{"prompt": "why", "completion": "the sea is blue because of the sky"}] * 3
    data = load_data(_jsonl(tmp_path / "a.jsonl", *rows), _format(tokenizer, 4))
    assert len(data.train) == 2
    assert "3 of the texts lose their ends" in data.describe_split()


def test_packed_texts_have_positions_of_their_own(tmp_path: Path, tokenizer: str) -> None:
    rows = [{"text": "the sea"}, {"text": "the sea"}, {"text": "the sea"}]
    data = load_data(_jsonl(tmp_path / "a.jsonl", *rows), _format(tokenizer, 8, packed=True))
    assert data.train.inputs.tolist() == [
        [[THE, SEA, END, THE, SEA, END, END, END], [0, 1, 2, 0, 1, 2, 0, 1]]
    ]
    assert data.train.labels.tolist() == [[N, SEA, END, N, SEA, END, N, N]]
    assert "packed" in data.describe_split()


@given(sizes=st.lists(st.integers(2, 9), max_size=40))
def test_packing_loses_nothing_and_is_dense(sizes: list[int]) -> None:
    pieces = [
        TokenText(np.full(size, i, np.int32), np.ones(size, bool), True)
        for i, size in enumerate(sizes)
    ]
    rows = _packed(pieces, 9)
    assert sorted(int(p.ids[0]) for row in rows for p in row) == list(range(len(sizes)))
    filled = [sum(len(p.ids) for p in row) for row in rows]
    assert max(filled, default=0) <= 9
    assert sum(a + b <= 9 for a, b in pairwise(filled)) == 0


def test_the_order_is_the_seeds_and_the_fingerprint_tells_choices_apart(
    tmp_path: Path, tokenizer: str
) -> None:
    rows = [{"prompt": "why", "completion": " ".join(WORDS[1 : 2 + i])} for i in range(9)]
    name = _jsonl(tmp_path / "a.jsonl", *rows)
    one, same, other = (load_data(name, _format(tokenizer, 16), seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint.train != other.fingerprint.train
    assert (len(one.train), len(one.test)) == (7, 2)
    few = load_data(name, _format(tokenizer, 16), num_train=3, num_test=4)
    assert (len(few.train), len(few.test)) == (3, 4)
    everything = {tuple(own) for own in [*few.train.inputs.tolist(), *few.test.inputs.tolist()]}
    assert len(everything) == 7
    packed = load_data(name, _format(tokenizer, 16, packed=True))
    assert packed.fingerprint.train != one.fingerprint.train


def test_saved_data_sets_are_read(tmp_path: Path, tokenizer: str) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {
        split: datasets.Dataset.from_list([{"prompt": "why", "completion": word}] * 2)
        for split, word in (("train", "blue"), ("validation", "sky"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = load_data(f"hf-dataset:{tmp_path / 'saved'}", _format(tokenizer, 4))
    assert data.train.inputs.tolist() == [[WHY, BLUE, END, END]] * 2
    assert data.test.inputs.tolist() == [[WHY, SKY, END, END]] * 2
    with pytest.raises(InputError, match="is no data set saved to disk"):
        load_data(f"hf-dataset:{tmp_path}", _format(tokenizer))


def test_texts_of_which_nothing_is_learnt_end_it_or_are_left_out(
    tmp_path: Path, tokenizer: str
) -> None:
    long = {"prompt": "the sea is blue", "completion": "sky"}
    short = {"prompt": "why", "completion": "blue"}
    name = _jsonl(tmp_path / "a.jsonl", long, short, short, short)
    with pytest.raises(InputError, match="line 1: has no token to learn within a sequence of 4"):
        load_data(name, _format(tokenizer, 4))
    data = load_data(name, _format(tokenizer, 4), on_bad_file="skip")
    assert len(data.train) + len(data.test) == 3
    assert len(data.skipped) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "a.jsonl: has nothing in it"),
        ("\n \n", "a.jsonl: has nothing in it"),
        ('{"prompt": "why"}\n', "line 1: completion is missing"),
        ('{"prompt": "why", "completion": " "}\n', "line 1: completion is empty"),
        ('{"prompt": 1, "completion": "blue"}\n', "line 1: prompt is 1; it must be a text"),
        ('{"text": "the sea"}\n{"text": \n', "line 2: is no JSON"),
        ("[1]\n", "line 1: is list; it must be an object"),
        ('{"words": "the"}\n', "line 1: has neither prompt and completion, nor messages, nor"),
        ('{"messages": []}\n', "line 1: messages must be a list of objects"),
        ('{"messages": [{"role": "user"}]}\n', "line 1: messages must be a list of objects"),
        ('{"messages": [{"role": "user", "content": "why"}]}\n', "no message is the assistant's"),
        ('{"text": "the sea"}\n', "is a single text, too short to train and to test on"),
        ('{"text": "the"}\n{"text": "sea"}\n', "the texts make 1"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, tokenizer: str, content: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=said):
        load_data(f"jsonl:{tmp_path / 'a.jsonl'}", _format(tokenizer), num_train=2)


def test_what_is_missing_is_named(tmp_path: Path, tokenizer: str) -> None:
    row = {"messages": [{"role": "assistant", "content": "blue"}]}
    name = _jsonl(tmp_path / "a.jsonl", row, row)
    untold = save_tiny_tokenizer(tmp_path / "untold", chat_template=None)
    with pytest.raises(InputError, match=r"line .*: messages need a chat template"):
        load_data(name, _format(str(untold)))
    odd = save_tiny_tokenizer(
        tmp_path / "odd", "{{ messages | length }} {{ messages[-1].content }}"
    )
    rows = {"messages": [{"role": role, "content": "sea"} for role in ("user", "assistant")]}
    with pytest.raises(InputError, match="writes message 2 otherwise than it asks for it"):
        load_data(_jsonl(tmp_path / "b.jsonl", rows, rows), _format(str(odd)))
    with pytest.raises(InputError, match=r"tokenizer .*nowhere cannot be had"):
        load_data(name, _format(str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="the model knows those below 4"):
        load_data(name, SequenceFormat(8, tokenizer, 4))
    with pytest.raises(InputError, match="there is no"):
        load_data(f"textfiles:{tmp_path / 'nowhere'}", _format(tokenizer))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"empty.txt: has nothing in it"):
        load_data(f"textfiles:{tmp_path / 'empty.txt'}", _format(tokenizer))
    with pytest.raises(InputError, match="are for a decoder"):
        load_data(name, PictureFormat(28))
    with pytest.raises(InputError, match=r"are no texts .*a decoder needs them"):
        load_data("mnist-subset", _format(tokenizer))
