"""Documents as token numbers by transformers' tokenizers, and which of them are foretold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2ft_sched.errors import InputError
from runtime.data.documents import Conversation, Document, Pair, PlainText
from runtime.data.input_format import SequenceFormat


@dataclass(frozen=True, eq=False)
class TokenText:
    """A document's tokens.

    Attributes:
        ids: int32 ``[num_tokens]``.
        is_counted: which are to be foretold from those before, bool ``[num_tokens]``.
        may_be_cut: whether it may be cut into several.
    """

    ids: np.ndarray
    is_counted: np.ndarray
    may_be_cut: bool


@dataclass(frozen=True)
class _Segment:
    """A stretch of a document; what a chat template wrote may hold special tokens."""

    text: str
    is_counted: bool
    is_templated: bool = False


class DocumentTokens:
    """What makes tokens of documents.

    Text is text, also where it reads like a special token, except in conversations, whose template
    writes such tokens as text. A plain text and a pair begin as the tokenizer has texts begin, and
    end with its end of sequence, which is to be foretold. Prompt and completion are cut into tokens
    each for itself, as they are when a model is asked.

    Attributes:
        padding_id: what fills up a sequence, where nothing is counted.
    """

    def __init__(self, sequence_format: SequenceFormat) -> None:
        """Raises InputError if the tokenizer cannot be had."""
        self._format = sequence_format
        self._tokenizer = load_tokenizer(sequence_format.tokenizer)
        end, padding = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        self._end = [] if end is None else [end]
        self.padding_id: int = next((i for i in (padding, end) if i is not None), 0)
        first = self._tokenizer("a")["input_ids"][:1]
        self._begin = first if first == [self._tokenizer.bos_token_id] else []

    def __call__(self, documents: Sequence[tuple[str, Document]]) -> list[TokenText]:
        """Tokens of documents, each given with where it stands.

        Raises:
            InputError: a conversation does not fit the chat template or there is none, or the
                tokenizer has tokens that the model does not know.
        """
        segments = [self._segments(where, document) for where, document in documents]
        flat = [segment for own in segments for segment in own]
        ids: list[list[int]] = [[]] * len(flat)
        for is_templated in (False, True):
            chosen = [i for i, s in enumerate(flat) if s.is_templated == is_templated and s.text]
            if chosen:
                encoded = self._tokenizer(
                    [flat[i].text for i in chosen],
                    add_special_tokens=False,
                    split_special_tokens=not is_templated,
                )
                for i, own in zip(chosen, encoded["input_ids"], strict=True):
                    ids[i] = own
        texts, done = [], 0
        for (_, document), own in zip(documents, segments, strict=True):
            pieces = list(zip(ids[done : done + len(own)], own, strict=True))
            done += len(own)
            texts.append(self._text(document, pieces))
        return texts

    def _text(self, document: Document, pieces: list[tuple[list[int], _Segment]]) -> TokenText:
        begin, end = (self._begin, self._end)
        if isinstance(document, Conversation) or not any(ids for ids, _ in pieces):
            begin, end = [], []
        own = [*begin, *(i for ids, _ in pieces for i in ids), *end]
        is_counted = [False] * len(begin)
        is_counted += [segment.is_counted for ids, segment in pieces for _ in ids]
        is_counted += [True] * len(end)
        if own and max(own) >= self._format.vocabulary_size:
            raise InputError(
                f"tokenizer {self._format.tokenizer}: has token {max(own)}; the model knows those "
                f"below {self._format.vocabulary_size}"
            )
        return TokenText(
            np.array(own, np.int32), np.array(is_counted, bool), isinstance(document, PlainText)
        )

    def _segments(self, where: str, document: Document) -> list[_Segment]:
        if isinstance(document, PlainText):
            return [_Segment(document.text, True)]
        if isinstance(document, Pair):
            return [_Segment(document.prompt, False), _Segment(document.completion, True)]
        segments, before = [], ""
        for i, message in enumerate(document.messages):
            if message["role"] != "assistant":
                continue
            asked = self._templated(where, document.messages[:i], True) if i else before
            told = self._templated(where, document.messages[: i + 1], False)
            if not (asked.startswith(before) and told.startswith(asked)):
                raise InputError(
                    f"{where}: the chat template of tokenizer {self._format.tokenizer} writes "
                    f"message {i + 1} otherwise than it asks for it; what is to be learnt cannot "
                    f"be told"
                )
            segments.append(_Segment(asked[len(before) :], False, True))
            segments.append(_Segment(told[len(asked) :], True, True))
            before = told
        return segments

    def _templated(self, where: str, messages: Any, asks: bool) -> str:
        return apply_chat_template(self._tokenizer, self._format.tokenizer, where, messages, asks)


def apply_chat_template(
    tokenizer: Any, source: str, where: str, messages: Sequence[Any], asks: bool
) -> str:
    """Messages as the model reads them; with `asks` as far as its answer begins.

    Raises:
        InputError: there is no template, or it refuses the messages.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: messages need a chat template, and tokenizer {source} has none; give pairs "
            f"of prompt and completion"
        )
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=asks
        )
    except Exception as error:  # jinja's, and what a template raises
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: the chat template refuses the messages ({reason})") from None


def load_tokenizer(source: str) -> Any:
    """transformers' tokenizer of a folder or, by its name, of the Hugging Face hub.

    Raises:
        InputError: it cannot be had.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # transformers, tokenizers and the hub have kinds of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"tokenizer {source} cannot be had ({lines[0]})") from None
