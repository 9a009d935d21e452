"""What a decoder says: transformers' own generation on the whole model, adapters included."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2ft_sched.errors import InputError
from d2ft_sched.files.counted import counted
from runtime.data.document_tokens import apply_chat_template, load_tokenizer
from runtime.data.input_format import SequenceFormat
from runtime.families.known_families import family_named
from runtime.models.build import build_model, input_format_of, shape_of
from runtime.models.peft_adapters import ADAPTER, CONFIG


@dataclass(frozen=True)
class Told:
    """What followed a prompt.

    Attributes:
        text: without the prompt and without special tokens.
        num_prompt_tokens, num_new_tokens: of both.
        has_ended: whether the model ended it, not the bound on its length.
        seconds: that generation took.
    """

    text: str
    num_prompt_tokens: int
    num_new_tokens: int
    has_ended: bool
    seconds: float


class Speaker:
    """A decoder with its tokenizer, on a device."""

    def __init__(self, model: nn.Module, tokenizer: str, device: torch.device) -> None:
        """Take a model with a bare head to a device, as it is or with adapters.

        Args:
            model: one of transformers, or one that `peft` has put around it.
            tokenizer: a folder in transformers' layout, or a model's name on the hub.
            device: to run on.

        Raises:
            InputError: the tokenizer cannot be had.
        """
        self._model: Any = model.to(device).eval()
        self._tokenizer, self._source = load_tokenizer(tokenizer), tokenizer
        self._device = device

    def tell(
        self,
        prompt: str,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        is_chat: bool = False,
        seed: int = 0,
    ) -> Told:
        """What follows a prompt.

        Args:
            prompt: text; what reads like a special token is text, unless it is a message.
            max_new_tokens: the most there are.
            temperature: of drawing tokens by their probability; 0 takes the most probable ones.
            is_chat: the prompt is a user's message, put into the chat template.
            seed: of the drawing.

        Raises:
            InputError: the prompt has no token, or is too long with what follows, or there is no
                chat template.
        """
        if is_chat:
            message = {"role": "user", "content": prompt}
            prompt = apply_chat_template(
                self._tokenizer, self._source, "the prompt", [message], True
            )
        ids = self._tokenizer(
            [prompt], add_special_tokens=not is_chat, split_special_tokens=not is_chat
        )["input_ids"][0]
        if not ids:
            raise InputError(f"the prompt is {prompt!r}, of which the tokenizer makes no token")
        config = self._model.config
        if len(ids) + max_new_tokens > config.max_position_embeddings:
            raise InputError(
                f"the prompt has {counted(len(ids), 'token')} and up to {max_new_tokens} "
                f"follow; the model has positions for {config.max_position_embeddings}"
            )
        if max(ids) >= config.vocab_size:
            raise InputError(
                f"tokenizer {self._source}: has token {max(ids)}; the model knows those below "
                f"{config.vocab_size}"
            )
        own = torch.tensor([ids], device=self._device)
        end = self._tokenizer.eos_token_id
        drawn: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        start = time.perf_counter()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            out = self._model.generate(
                input_ids=own,
                attention_mask=torch.ones_like(own),
                max_new_tokens=max_new_tokens,
                eos_token_id=end,
                pad_token_id=end if end is not None else 0,
                **drawn,
            )[0, len(ids) :].tolist()
        return Told(
            self._tokenizer.decode(out, skip_special_tokens=True),
            len(ids),
            len(out),
            bool(out) and out[-1] == end,
            time.perf_counter() - start,
        )


def build_speaker(
    name: str,
    *,
    weights: str | Path | None,
    pretrained: bool,
    adapter: Path | None,
    device: torch.device,
) -> Speaker:
    """A decoder by name, with adapters or without.

    Args:
        name, weights, pretrained: as `runtime.models.build.build_model` takes them.
        adapter: folder of adapters in the format of `peft`, of this model.
        device: to run on.

    Raises:
        InputError: it is no decoder, or model, weights, adapters or tokenizer cannot be had.
    """
    if family_named(name).has_class_labels:
        raise InputError(f"model {name!r} sorts samples into classes; only a decoder tells text")
    model = build_model(name, weights=weights, pretrained=pretrained)
    tokens = input_format_of(shape_of(model))
    assert isinstance(tokens, SequenceFormat)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    return Speaker(model, tokens.tokenizer, device)


def adapter_in(folder: Path) -> Path | None:
    """The folder of adapters: itself, or that within the results of a run; None if there is
    none."""
    return next((own for own in (folder, folder / ADAPTER) if (own / CONFIG).is_file()), None)


def _with_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    try:
        with contextlib.redirect_stderr(None):
            return PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # peft, safetensors and torch have kinds of their own
        reason = " ".join(str(error).split())
        raise InputError(f"adapters {folder}: do not fit the model ({reason[:200]})") from None
