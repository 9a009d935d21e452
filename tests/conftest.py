"""What tests of several packages share: the command line, a BERT of two blocks, tables of texts."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis import cli

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("puck", "goal", "skate", "rocket", "orbit", "moon", "the", "a", "of", "and", "is")
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 12,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
}


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    """A folder with ``config.json`` and ``tokenizer.json``; it has no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def write_table() -> Callable[[Path, Sequence[tuple[str, str]]], Path]:
    """Writes a table of texts as Orange does: class, then text."""

    def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
        lines = ["Category\tText", "d\tstring", "class\t", *(f"{c}\t{text}" for c, text in rows)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def two_topics() -> Callable[[int], list[tuple[str, str]]]:
    """So many texts of each of two topics, of different lengths."""

    def texts(number: int) -> list[tuple[str, str]]:
        hockey = [("hockey", "the puck is a goal " * (1 + i % 2) + "skate") for i in range(number)]
        return hockey + [
            ("space", "a rocket and the moon " + "orbit " * (i % 4)) for i in range(number)
        ]

    return texts


@pytest.fixture
def d2ft(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d2ft", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call
