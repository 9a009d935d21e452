"""The head over a vocabulary, cut by tokens: its logits would be the largest activation of all.

So many tokens at a time pass the head, and have their loss and the gradient of their logits made at
once: what is kept for backward is the gradient of the head's input.
"""

HEAD_CHUNK_TOKENS = 512
"""Tokens whose logits are there together."""
