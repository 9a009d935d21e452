"""Small random decoders of every layout, and batches of token numbers."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from runtime.without_values import without_values

NUM_TOKENS, VOCABULARY = 9, 31
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama of scaled positions": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "smollm2": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "ungrouped": ("Llama", {"num_key_value_heads": 6}),
}
"""Classes of transformers, and what their configuration has besides."""


def building_on(device: str) -> AbstractContextManager[Any]:
    """Where a model is built; none of it is filled that has no values."""
    return without_values() if device == "meta" else torch.device(device)


def fill(model: nn.Module, std: float) -> None:
    """Normal values in all parameters that have any."""
    for parameter in model.parameters():
        if not parameter.is_meta:
            nn.init.normal_(parameter, std=std)


def small_decoder(
    layout: str = "llama",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    **options: Any,
) -> Any:
    """Two blocks with random values, the same every time."""
    import transformers

    kind, own = LAYOUTS[layout]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**(_SIZES | own | options))
    with building_on(device):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    fill(model, std=0.3)
    model.name_or_path, model.num_tokens = "small", NUM_TOKENS
    return model.to(dtype).train()


def padded(num_samples: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Texts of different lengths, filled up at the end, whose first tokens are not counted."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (num_samples, NUM_TOKENS), generator=generator)
    lengths = torch.randint(4, NUM_TOKENS + 1, (num_samples, 1), generator=generator)
    lengths[0] = NUM_TOKENS
    prompts = torch.randint(0, 3, (num_samples, 1), generator=generator)
    places = torch.arange(NUM_TOKENS)
    counts = (places < lengths) & (places >= prompts)
    return torch.where(places < lengths, tokens, 0), torch.where(counts, tokens, -100)


def packed(num_samples: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two texts in each sample, cut at different places: token numbers and positions."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (num_samples, NUM_TOKENS), generator=generator)
    cuts = torch.randint(2, NUM_TOKENS - 1, (num_samples, 1), generator=generator)
    places = torch.arange(NUM_TOKENS).expand(num_samples, -1)
    positions = torch.where(places < cuts, places, places - cuts)
    labels = torch.where(positions == 0, -100, tokens)
    return torch.stack([tokens, positions], 1), labels
