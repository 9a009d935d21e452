"""What stands between the linear maps of a decoder's blocks, computed by transformers' functions.

Shapes: b samples, N tokens, r rows of a map.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor


def rotary_attention(
    projected: Sequence[Tensor], positions: Tensor | None, *, attention: Any, rotary: Any
) -> Tensor:
    """Causal attention of queries that share keys and values, under rotary positions.

    Args:
        projected: queries, keys and values, ``[b, N, r]`` each.
        positions: of the tokens, int ``[b, N]``, from 0 in every text of a sample, of which none
            sees another; or which tokens each token may look at, bool ``[b, 1, N, N]``, for what
            queries and keys make of positions depends on their distance alone; None for one text
            from the first token on.
        attention: of transformers; its maps are not used.
        rotary: the model's rotary embedding.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import create_causal_mask

    rotate = import_module(type(attention).__module__).apply_rotary_pos_emb
    query, key, value = (part.unflatten(-1, (-1, attention.head_dim)) for part in projected)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    places, mask = positions, positions
    if places is None or places.dim() == 4:
        places = torch.arange(value.shape[2], device=value.device)[None]
    else:
        mask = create_causal_mask(
            config=attention.config,
            inputs_embeds=projected[2],
            attention_mask=None,
            cache=None,
            position_ids=places,
        )
    wide = torch.promote_types(value.dtype, torch.float32)
    cos, sin = rotary(value.new_empty(0, dtype=wide), position_ids=places)
    query, key = (part.to(value.dtype) for part in rotate(query, key, cos, sin))
    mixed, _ = sdpa_attention_forward(attention, query, key, value, mask, scaling=attention.scaling)
    return mixed.flatten(2)


def gated_core(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A core: what comes from up, as far as the activation of what comes from gate lets it."""
    return lambda projected, positions: activation(projected[0]) * projected[1]
