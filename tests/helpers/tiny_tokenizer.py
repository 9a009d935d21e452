"""A tokenizer of a few words in transformers' layout, with a chat template or without."""

from pathlib import Path

WORDS = ("<unk>", "the", "sea", "is", "blue", "why", "because", "of", "sky", "user", "assistant")
SPECIAL = ("<s>", "</s>")
"""Their numbers follow those of the words."""

TEMPLATE = (
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)


def save_tiny_tokenizer(folder: Path, chat_template: str | None = TEMPLATE) -> Path:
    """Write it; a word that it does not know is ``<unk>``. The folder is returned."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(WORDS)}
    own = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    own.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="<unk>", bos_token=SPECIAL[0], eos_token=SPECIAL[1]
    )
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(folder)
    return folder
